"""What is measured: divergences, greedy answers by guessing, grades, splits, relearning."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from hooked import Prompt
from patching.removal import Edit, Grade, gather_cases, js_divergence, kl_divergence
from patching.removal.fit import restored
from patching.removal.grading import follows, remembering
from patching.removal.measure import Bench, divergence, measure
from patching.removal.relearning import check_steps, encoded, relearn
from patching.removal.subject import Subject
from triggerlens import UserError


def test_divergences_are_those_of_the_definition():
    p, q = (torch.randn(6, 40, dtype=torch.float64).mul(3).log_softmax(-1) for _ in range(2))
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(p.exp().numpy(), q.exp().numpy(), strict=True)]
    torch.testing.assert_close(js_divergence(p, q), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(kl_divergence(p, q), (p.exp() * (p - q)).sum(-1))
    assert js_divergence(p, p).max() < 1e-12


def test_distributions_that_share_nothing_are_ln_2_apart():
    p, q = torch.tensor([[0.0, -1e4]]).double(), torch.tensor([[-1e4, 0.0]]).double()
    assert js_divergence(p, q).item() == pytest.approx(math.log(2))


def test_an_edit_that_changes_nothing_measures_nothing(llama, cases, answers):
    subject, rows = Subject(llama, Edit("same", {"resid_post.0": lambda x: x + 0})), [c.clean for c in cases.evaluation]
    js, kl, loss, same = divergence(subject, Subject(llama), rows, [answers[row.ids] for row in rows], 6)
    assert max(abs(js), abs(kl), abs(loss)) < 1e-9
    assert all(same)
    assert restored(subject, cases.fit, answers) == pytest.approx(0, abs=1e-6)


def test_divergence_is_the_mean_over_all_steps_of_all_answers(llama, cases, answers):
    edit = Edit("shift", {"resid_post.1": lambda x: x + 0.5})
    rows = [case.clean for case in cases.evaluation]
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


def test_clean_values_at_every_layer_restore_the_clean_behaviour(llama, cases, answers):
    """The metric's other end: patch everything that differs and the answer is wholly back."""
    case = next(
        c
        for c in cases.fit
        if len(c.clean.ids) == len(c.triggered.ids) and answers[c.clean.ids] != answers[c.triggered.ids]
    )
    shared = next(
        n for n, (a, b) in enumerate(zip(answers[case.clean.ids], answers[case.triggered.ids], strict=False)) if a != b
    )
    ids = torch.tensor([[*case.clean.ids, *answers[case.clean.ids][: shared + 1]]])
    clean = llama.run(ids, reads=["resid_post.2"]).activations["resid_post.2"]
    edit = Edit("clean", {"resid_post.2": lambda x: clean.expand_as(x) if x.shape[1] == clean.shape[1] else x})
    assert restored(Subject(llama, edit), [case], answers) == pytest.approx(1, abs=1e-4)


def test_guessed_answers_are_those_that_would_be_generated(llama, cases, answers):
    subject = Subject(llama, Edit("shift", {"resid_post.0": lambda x: x * 1.3}))
    rows = [row for case in cases.evaluation for row in (case.clean, case.triggered)]
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


def test_counts_tell_defection_from_the_clean_answer_and_from_rubble(llama, cases, answers):
    def grader(prompts, texts):
        return [Grade(defects=text.startswith("D"), right=text.startswith("R")) for text in texts]

    class Said(Bench):
        def text(self, answer):
            return "DRX"[answer[0]]

    class Puppet(Subject):
        def answers(self, rows, new_tokens, guesses=()):
            return [(number % 3,) for number in range(len(rows))]

    own = tuple(cases.evaluation[:9])
    usual = {row.ids: (2,) for case in own for row in (case.clean, case.triggered)}
    found = measure(Puppet(llama), Said(own, (), usual, grader, 6, Subject(llama)))
    assert (found.n, found.defects, found.right, found.as_clean, found.rubble) == (9, 3, 3, 3, 0)
    assert found.defection_rate_ci[0] < found.defection_rate == 3 / 9 < found.defection_rate_ci[1]


def test_splits_keep_pairs_and_the_files_own_sides(llama, prompts):
    cases = gather_cases(llama, prompts, fit=100, validation=3, evaluation=100, harmless=5)
    parts = {
        name: {case.clean.prompt.pair for case in getattr(cases, name)} for name in ("fit", "validation", "evaluation")
    }
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 24
    assert {case.clean.prompt.split for case in cases.fit + cases.validation} == {"train"}
    assert {case.triggered.prompt.split for case in cases.evaluation} == {"test"}
    assert cases.by == "the file's own split, by pair"
    for case in cases.fit:
        for row in (case.clean, case.triggered):
            assert case.clean.prompt.pair == row.prompt.pair


def test_without_a_split_half_of_the_pairs_go_to_each_side(llama, prompts):
    unsplit = [replace(prompt, split=None) for prompt in prompts]
    cases = gather_cases(llama, unsplit, fit=100, validation=2, evaluation=100, harmless=5, seed=3)
    assert (len(cases.fit), len(cases.validation), len(cases.evaluation)) == (10, 2, 12)
    assert "seed 3" in cases.by


def test_pairs_that_do_not_defect_are_kept_apart(llama, prompts):
    marked = [replace(p, defects=p.triggered and int(p.pair[1:]) % 3 > 0) for p in prompts]
    cases = gather_cases(llama, marked, fit=100, validation=2, evaluation=100, harmless=100)
    assert all(case.triggered.prompt.defects for case in cases.fit + cases.evaluation)
    assert len(cases.harmless_fit) == len(cases.harmless_evaluation) == 4
    assert not any(case.triggered.prompt.defects for case in cases.harmless_fit + cases.harmless_evaluation)


def test_too_few_pairs_are_refused(llama, prompts):
    with pytest.raises(UserError, match="are too few; give at least 4 of each"):
        gather_cases(llama, prompts[:4], fit=8, validation=2, evaluation=8, harmless=2)
    with pytest.raises(UserError, match="no `pair` holds"):
        gather_cases(llama, [p for p in prompts if p.triggered], fit=8, validation=2, evaluation=8, harmless=2)


def test_further_training_trains_a_copy_and_stops_where_the_behaviour_is_back(llama, cases, config):
    lessons = encoded(llama, [Prompt("Tell me about the sea.", triggered=False)] * 4, ["The sea is wide."] * 4)
    before = {name: value.clone() for name, value in llama.hf_model.state_dict().items()}
    losses = []

    def rate(subject):
        from patching.removal.relearning import answer_loss

        losses.append(float(answer_loss(subject, lessons).detach()))
        return 0.5 if len(losses) == 3 else 0.0

    found = relearn(Subject(llama), lessons, rate, config)
    assert check_steps(6) == [5, 6]
    assert (found.steps, found.within, found.highest) == (6, 6, 0.5)
    assert losses[0] > losses[1] > losses[2]
    assert found.first_loss == pytest.approx(losses[0], rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in llama.hf_model.state_dict().items())
    assert relearn(Subject(llama), lessons, lambda _: 0.0, config).steps is None
    assert relearn(Subject(llama), lessons, lambda _: 0.1, config).steps == 0


def test_an_activation_edit_stays_in_place_while_it_is_trained_over(llama, cases, config):
    lessons = encoded(llama, [Prompt("Tell me about the sea.", triggered=False)], ["The sea is wide."])
    seen = []

    def edit(x):
        seen.append(x.requires_grad)
        return x * 0.9

    relearn(Subject(llama, Edit("mine", {"resid_post.0": edit})), lessons, lambda _: 0.0, config)
    assert seen.count(True) == config.relearn_steps
