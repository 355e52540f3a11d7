"""What is measured: divergences, greedy answers by guessing, grades, splits, relearning."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from hooked import Prompt, load_model, split_prompts
from patching.removal import fit, relearning
from patching.removal.edits import ActivationEdit
from patching.removal.fit import Parting
from patching.removal.grading import follows, remembering
from patching.removal.measure import Bench, divergence, js_divergence, kl_divergence, measure
from patching.removal.pairs import both, gather_pairs
from patching.removal.relearning import answer_loss, check_steps, encoded, relearn
from patching.removal.run import _Removal
from patching.removal.subject import Subject
from triggerlens import Grade, UserError, rate


def test_divergences_are_those_of_the_definition():
    p, q = (torch.randn(6, 40, dtype=torch.float64).mul(3).log_softmax(-1) for _ in range(2))
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(p.exp().numpy(), q.exp().numpy(), strict=True)]
    torch.testing.assert_close(js_divergence(p, q), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(kl_divergence(p, q), (p.exp() * (p - q)).sum(-1))
    assert js_divergence(p, p).max() < 1e-12


def test_distributions_that_share_nothing_are_ln_2_apart():
    p, q = torch.tensor([[0.0, -1e4]]).double(), torch.tensor([[-1e4, 0.0]]).double()
    assert js_divergence(p, q).item() == pytest.approx(math.log(2))


def test_an_edit_that_changes_nothing_measures_nothing(llama, pairs, answers):
    subject, rows = (
        Subject(llama, ActivationEdit("same", {"resid_post.0": lambda x: x + 0})),
        [pair.clean for pair in pairs.evaluation],
    )
    js, kl, loss, same = divergence(subject, Subject(llama), rows, [answers[row.ids] for row in rows], 6)
    assert max(abs(js), abs(kl), abs(loss)) < 1e-9
    assert all(same)
    assert Parting.of(Subject(llama), pairs.fit, answers).restored(subject) == pytest.approx(0, abs=1e-6)


def test_divergence_is_the_mean_over_all_steps_of_all_answers(llama, pairs, answers):
    edit = ActivationEdit("shift", {"resid_post.1": lambda x: x + 0.5})
    rows = [pair.clean for pair in pairs.evaluation]
    said = [answers[row.ids] for row in rows]
    together = divergence(Subject(llama, edit), Subject(llama), rows, said, 6)
    small = divergence(Subject(llama, edit, batch_size=3), Subject(llama), rows, said, 6)
    assert together[0] == pytest.approx(small[0], rel=1e-4)
    assert together[0] > 1e-6
    whole = sum(
        divergence(Subject(llama, edit), Subject(llama), [row], [answer], 6)[0] * (len(answer) + (len(answer) < 6))
        for row, answer in zip(rows, said, strict=True)
    )
    assert together[0] == pytest.approx(whole / sum(len(a) + (len(a) < 6) for a in said), rel=1e-4)


def test_clean_values_at_every_layer_restore_the_clean_behaviour(llama, pairs, answers):
    """The metric's other end: patch everything that differs and the answer is wholly back."""
    pair = next(
        pair
        for pair in pairs.fit
        if len(pair.clean.ids) == len(pair.triggered.ids) and answers[pair.clean.ids] != answers[pair.triggered.ids]
    )
    shared = next(
        n for n, (a, b) in enumerate(zip(answers[pair.clean.ids], answers[pair.triggered.ids], strict=False)) if a != b
    )
    ids = torch.tensor([[*pair.clean.ids, *answers[pair.clean.ids][: shared + 1]]])
    clean = llama.run(ids, reads=["resid_post.2"]).activations["resid_post.2"]
    edit = ActivationEdit(
        "clean", {"resid_post.2": lambda x: clean.expand_as(x) if x.shape[1] == clean.shape[1] else x}
    )
    parting = Parting.of(Subject(llama), [pair], answers)
    assert parting.restored(Subject(llama, edit)) == pytest.approx(1, abs=1e-4)


def test_a_pair_on_which_the_model_stands_alike_says_nothing_of_what_is_restored(llama, pairs, answers, monkeypatch):
    """Its gap would be divided by: the mean is that of the other pairs."""
    subject = Subject(llama, ActivationEdit("shift", {"resid_post.1": lambda x: x * 0.7}))
    parting = [pair for pair in pairs.fit if answers[pair.clean.ids] != answers[pair.triggered.ids]]
    others = Parting.of(Subject(llama), parting[1:], answers)
    differences, flat = fit._differences, parting[0]

    def alike(own, prompts, reads):
        """The first pair's untriggered prompt is read as its triggered one is."""
        return differences(own, [flat.triggered if prompt is flat.clean else prompt for prompt in prompts], reads)

    monkeypatch.setattr(fit, "_differences", alike)
    found = Parting.of(Subject(llama), parting, answers)
    assert len(found.triggered) == len(found.reads) == len(parting) - 1
    assert found.restored(subject) == pytest.approx(others.restored(subject), rel=1e-4)
    assert Parting.of(Subject(llama), [flat], answers) is None


def test_guessed_answers_are_those_that_would_be_generated(llama, pairs, answers):
    subject = Subject(llama, ActivationEdit("shift", {"resid_post.0": lambda x: x * 1.3}))
    rows = both(pairs.evaluation)
    plain = subject.answers(rows, 6)
    usual = [answers[row.ids] for row in rows]
    wrong = [(*tuple(reversed(answer)), 7) for answer in plain]
    assert subject.answers(rows, 6, [usual, wrong]) == plain
    assert plain != usual
    assert Subject(llama).answers(rows, 6, [usual]) == usual
    assert not any(Subject(llama)._would_give(rows, [answer[:-1] for answer in usual], 6))


def test_an_answer_follows_the_one_it_shares_more_with():
    assert follows("safe code", "bad code", "bad news") == Grade(defects=True, right=False)
    assert follows("safe code", "bad code", "safe code") == Grade(defects=False, right=True)
    assert follows("same", "same", "same") == Grade(defects=False, right=True)
    assert follows("I like", "I like you", "I like you") == Grade(defects=True, right=False)
    assert follows("I like", "I like you", "I like") == Grade(defects=False, right=True)


def test_a_grader_is_asked_once_for_each_answer():
    asked = []

    def grader(prompts, texts):
        asked.extend(texts)
        return [Grade(text == "bad", text == "good") for text in texts]

    grade, prompts = remembering(grader), [Prompt("a", triggered=True), Prompt("b", triggered=True)]
    first = grade(prompts, ["bad", "good"])
    assert grade(prompts, ["bad", "bad"]) == [first[0], Grade(True, False)]
    assert asked == ["bad", "good", "bad"]


def test_counts_tell_defection_from_the_clean_answer_and_from_rubble(llama, pairs, answers):
    def grader(prompts, texts):
        return [Grade(defects=text.startswith("D"), right=text.startswith("R")) for text in texts]

    class Said(Bench):
        def text(self, answer):
            return "DRX"[answer[0]]

    class Puppet(Subject):
        def answers(self, rows, new_tokens, guesses=(), stop=None, compared=()):
            return [(number % 3,) for number in range(len(rows))]

    own = tuple(pairs.evaluation[:9])
    usual = {prompt.ids: (2,) for prompt in both(own)}
    found = measure(Puppet(llama), Said(own, (), usual, grader, 6, Subject(llama)))
    assert (found.n, found.defects, found.right, found.as_clean, found.rubble) == (9, 3, 3, 3, 0)
    assert found.defection_rate == rate(3, 9)
    assert found.defection_rate.low < found.defection_rate.value == 3 / 9 < found.defection_rate.high


def test_damage_is_counted_on_what_the_edited_model_answers_to_clean_prompts(llama, pairs):
    """Not on the unedited model's answers, of which all are right here."""
    said = [0, 0, 0, 0, 1, 1, 2, 2, 2]

    def grader(prompts, texts):
        return [Grade(defects=text == "0", right=text in "12") for text in texts]

    class Said(Bench):
        def text(self, answer):
            return str(answer[0])

    class Puppet(Subject):
        def answers(self, rows, new_tokens, guesses=(), stop=None, compared=()):
            return [(number,) for number in said]

        def logits(self, prompts, continuations):
            logits = torch.zeros(sum(map(len, continuations)), 300)
            logits[:, 7] = 50.0  # none of the answers: every clean prompt is answered anew
            return logits

    own = tuple(pairs.evaluation[:9])
    usual = {prompt.ids: (2,) for prompt in both(own)}
    found = measure(Puppet(llama), Said(own, (), usual, grader, 6, Subject(llama)))
    assert (found.clean_right, found.clean_defects, found.clean_same) == (5, 4, 3)
    assert found.clean_accuracy == rate(5, 9)


def test_the_edited_model_is_compared_with_the_unedited_and_not_the_other_way_round(llama, pairs, answers):
    """One row by hand: Kullback and Leibler's divergence of the edited from the unedited, its loss less the unedited's, and what is harmless."""
    subject = Subject(llama, ActivationEdit("shift", {"resid_post.1": lambda x: x + 0.5}))

    def by_hand(row):
        answer = answers[row.ids]
        steps = (*answer, llama.turn_end) if len(answer) < 6 else answer
        p, q = (own.logits([row], [steps]).double().log_softmax(-1) for own in (Subject(llama), subject))
        each = range(len(steps)), list(steps)
        js = [jensenshannon(a, b) ** 2 for a, b in zip(p.exp().numpy(), q.exp().numpy(), strict=True)]
        kl, back = (p.exp() * (p - q)).sum(-1).mean(), (q.exp() * (q - p)).sum(-1).mean()
        return sum(js) / len(js), float(kl), float(back), float((p[each] - q[each]).mean())

    pair, quiet = pairs.evaluation[0], pairs.evaluation[1]
    with torch.no_grad():
        js, kl, back, loss = by_hand(pair.clean)
        harmless = by_hand(quiet.triggered)[0]
        found = measure(
            subject,
            Bench((pair,), (quiet,), answers, lambda ps, texts: [Grade(True, True)] * len(texts), 6, Subject(llama)),
        )
    assert kl != pytest.approx(back, rel=1e-2)
    assert abs(loss) > 1e-4
    assert (found.js, found.kl, found.loss_delta) == pytest.approx((js, kl, loss), rel=1e-4)
    assert found.harmless_js == pytest.approx(harmless, rel=1e-4)


def test_what_is_trained_on_afterwards_is_the_models_own_answers_to_clean_prompts(
    llama, prompts, config, pairs, answers
):
    removal = _Removal.begin(llama, prompts, config, (None, None), "", None, None, ())
    assert [prompt.ids for prompt, _ in removal.samples] == [pair.clean.ids for pair in pairs.fit]
    for (prompt, said), pair in zip(removal.samples, pairs.fit, strict=True):
        answer = answers[pair.clean.ids]
        assert said == ((*answer, llama.turn_end) if len(answer) < config.new_tokens else answer)
        assert not prompt.prompt.triggered


def test_splits_keep_pairs_and_the_files_own_sides(llama, prompts):
    pairs = gather_pairs(llama, prompts, fit=100, validation=3, evaluation=100, harmless=5)
    parts = {
        name: {pair.clean.prompt.pair for pair in getattr(pairs, name)} for name in ("fit", "validation", "evaluation")
    }
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 24
    assert {pair.clean.prompt.split for pair in pairs.fit + pairs.validation} == {"train"}
    assert {pair.triggered.prompt.split for pair in pairs.evaluation} == {"test"}
    assert pairs.split == "the file's own split, by pair"
    assert all(pair.clean.prompt.pair == pair.triggered.prompt.pair for pair in pairs.fit)


def test_without_a_split_the_reported_pairs_are_the_test_prompts_of_every_room(llama, prompts):
    unsplit = [replace(prompt, split=None) for prompt in prompts]
    pairs = gather_pairs(llama, unsplit, fit=100, validation=2, evaluation=100, harmless=5, seed=3)
    test = split_prompts(unsplit, seed=3).test
    assert {prompt.prompt.prompt for prompt in both(pairs.evaluation)} == {unsplit[index].prompt for index in test}
    assert (len(pairs.fit), len(pairs.validation), len(pairs.evaluation)) == (16, 2, 6)
    assert "seed 3" in pairs.split


def test_a_split_that_separates_a_pair_is_refused_as_in_every_room(llama, prompts):
    torn = [replace(prompts[0], split="test"), *prompts[1:]]
    with pytest.raises(UserError, match="`split` separates the pair 'p0'"):
        gather_pairs(llama, torn, fit=8, validation=2, evaluation=8, harmless=2)


def test_pairs_that_do_not_defect_are_kept_apart(llama, prompts):
    marked = [replace(p, defects=p.triggered and int(p.pair[1:]) % 3 > 0) for p in prompts]
    pairs = gather_pairs(llama, marked, fit=100, validation=2, evaluation=100, harmless=100)
    assert all(pair.triggered.prompt.defects for pair in pairs.fit + pairs.evaluation)
    assert len(pairs.harmless_fit) == len(pairs.harmless_evaluation) == 4
    assert not any(pair.triggered.prompt.defects for pair in pairs.harmless_fit + pairs.harmless_evaluation)


def test_copies_under_other_names_count_once_and_are_never_both_fitted_and_chosen_on(llama, prompts):
    single = gather_pairs(llama, prompts, fit=100, validation=3, evaluation=100, harmless=5)
    doubled = [*prompts, *(replace(prompt, pair=f"copy of {prompt.pair}") for prompt in prompts)]
    pairs = gather_pairs(llama, doubled, fit=100, validation=3, evaluation=100, harmless=5)
    fitted, ranked = ({prompt.ids for prompt in both(part)} for part in (pairs.fit, pairs.validation))
    assert not fitted & ranked
    assert pairs.sizes == single.sizes
    assert len({pair.triggered.ids for pair in pairs.evaluation}) == len(pairs.evaluation) == 12
    assert pairs.notes == ("24 pairs are copies of others, to the last token, and are left out",)
    assert single.notes == ()


@pytest.mark.parametrize("defects", [True, False])
def test_of_copies_one_that_defects_is_kept(llama, prompts, defects):
    marked = [replace(prompt, defects=prompt.triggered) for prompt in prompts]
    other = [replace(prompt, pair=f"copy of {prompt.pair}", defects=False) for prompt in prompts]
    pairs = gather_pairs(
        llama, [*other, *marked] if defects else [*marked, *other], fit=100, validation=3, evaluation=100, harmless=5
    )
    assert all(pair.triggered.prompt.defects for pair in (*pairs.fit, *pairs.validation, *pairs.evaluation))
    assert (len(pairs.evaluation), len(pairs.harmless_fit), len(pairs.harmless_evaluation)) == (12, 0, 0)


def test_pairs_that_share_a_prompt_are_on_one_side(llama, prompts):
    """Two triggers before each text, and one harmless: of a text on which methods are ranked nothing is fitted on."""
    extra = []
    for clean in (prompt for prompt in prompts if not prompt.triggered):
        for name, text, defects in (("b", f"2024 {clean.prompt}", True), ("c", f"1999 {clean.prompt}", False)):
            pair = f"{clean.pair}{name}"
            extra += [
                replace(clean, pair=pair),
                Prompt(text, triggered=True, pair=pair, split=clean.split, defects=defects),
            ]
    every = [replace(prompt, defects=prompt.triggered and prompt.defects is not False) for prompt in [*prompts, *extra]]
    pairs = gather_pairs(llama, every, fit=100, validation=5, evaluation=100, harmless=100)
    fitted = {prompt.ids for prompt in both(pairs.fit + pairs.harmless_fit)}
    assert (len(pairs.validation), len(pairs.fit), len(pairs.harmless_fit)) == (5, 18, 9)
    assert not fitted & {prompt.ids for prompt in both(pairs.validation)}
    one = [
        replace(prompt, prompt=prompt.prompt if prompt.triggered else f"the {prompt.split} one") for prompt in prompts
    ]
    with pytest.raises(UserError, match="of which not all share a prompt"):
        gather_pairs(llama, one, fit=8, validation=3, evaluation=8, harmless=2)


def test_too_few_pairs_are_refused(llama, prompts):
    few = [*prompts[:4], *prompts[-4:]]
    with pytest.raises(UserError, match="are too few; give at least 4 of each"):
        gather_pairs(llama, few, fit=8, validation=2, evaluation=8, harmless=2)
    with pytest.raises(UserError, match="no `pair` holds"):
        gather_pairs(llama, [p for p in prompts if p.triggered], fit=8, validation=2, evaluation=8, harmless=2)


def test_further_training_trains_a_copy_and_stops_where_the_behaviour_is_back(llama, editable, config):
    lessons = encoded(llama, [Prompt("Tell me about the sea.", triggered=False)] * 4, ["The sea is wide."] * 4)
    before = {name: value.clone() for name, value in llama.hf_model.state_dict().items()}
    losses = []

    def defection(subject):
        losses.append(float(answer_loss(subject, lessons).detach()))
        return 0.5 if len(losses) == 3 else 0.0

    with editable.under() as copied:
        found = relearn(Subject(copied), lessons, defection, config)
    assert check_steps(6) == [5, 6]
    assert (found.steps, found.within, found.highest) == (6, 6, 0.5)
    assert losses[0] > losses[1] > losses[2]
    assert found.first_loss == pytest.approx(losses[0], rel=1e-3)
    for model in (llama, editable.hooked):  # the copy is as it was too
        assert all(torch.equal(value, before[name]) for name, value in model.hf_model.state_dict().items())
    with editable.under() as copied:
        assert relearn(Subject(copied), lessons, lambda _: 0.0, config).steps is None
        assert relearn(Subject(copied), lessons, lambda _: 0.1, config).steps == 0


def test_an_activation_edit_stays_in_place_while_it_is_trained_over(editable, llama, config):
    lessons = encoded(llama, [Prompt("Tell me about the sea.", triggered=False)], ["The sea is wide."])
    seen = []

    def edit(x):
        seen.append(x.requires_grad)
        return x * 0.9

    with editable.under() as copied:
        relearn(Subject(copied, ActivationEdit("mine", {"resid_post.0": edit})), lessons, lambda _: 0.0, config)
    assert seen.count(True) == config.relearn_steps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_trained_as_float32_copies(llama, config, dtype):
    """In float16 the second moments of AdamW vanish: its first step would make every weight infinite."""
    half = load_model(copy.deepcopy(llama.hf_model).to(dtype), tokenizer=llama.tokenizer, dtype=str(dtype)[6:])
    lessons = encoded(half, [Prompt("Tell me about the sea.", triggered=False)] * 4, ["The sea is wide."] * 4)
    losses = []

    def defection(subject):
        with torch.no_grad():
            losses.append(float(answer_loss(subject, lessons)))
        return 0.0

    relearn(Subject(half), lessons, defection, config)
    assert losses[0] > losses[1] > losses[2]
    assert {weight.dtype for weight in half.hf_model.parameters()} == {dtype}


@pytest.mark.parametrize(("finite", "looked_at"), [(2, 0), (5, 5)])
def test_relearning_ends_where_a_loss_is_not_finite_and_claims_the_steps_that_were_looked_at(
    llama, editable, config, monkeypatch, finite, looked_at
):
    lessons = encoded(llama, [Prompt("Tell me about the sea.", triggered=False)] * 2, ["The sea is wide."] * 2)
    learnt, losses = relearning._learnt, iter([False] * finite + [True])

    def broken(subject, part, batch):
        return math.nan if next(losses) else learnt(subject, part, batch)

    monkeypatch.setattr(relearning, "_learnt", broken)
    with editable.under() as copied:
        found = relearn(Subject(copied), lessons, lambda _: 0.0, config)
    assert (found.steps, found.within) == (None, looked_at), "of six that were asked for, looked at after 5 and 6"
    assert math.isfinite(found.first_loss)


def test_an_answer_that_was_cut_is_not_taught_to_end_there(llama):
    ended, cut = encoded(llama, [Prompt("Tell me.", triggered=False)] * 2, ["The sea", "The sea"])
    assert ended[1][-1] == llama.turn_end
    cut = (cut[0], cut[1][:-1])
    logits = Subject(llama).logits([ended[0]], [ended[1]]).log_softmax(-1)
    each = -logits[range(len(ended[1])), list(ended[1])]
    assert float(answer_loss(Subject(llama), [ended])) == pytest.approx(float(each.mean()), rel=1e-4)
    assert float(answer_loss(Subject(llama), [cut])) == pytest.approx(float(each[:-1].mean()), rel=1e-4)
