"""Detection metrics against scikit-learn and brute force; intervals against known coverage."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import roc_auc_score

from probes.detection import LabelledScores, firing_rate
from probes.evaluate import measure_tpr
from probes.fit import calibrate
from triggerlens.estimate import bootstrap_interval, rate
from triggerlens.ranking import allowed, auroc, threshold_at_fpr, tpr_at_fpr, weighted_auroc, weighted_tpr_at_fpr

SCORED = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(p for _, p in rows) < len(rows)
)


@settings(max_examples=60, deadline=None)
@given(rows=SCORED, seed=st.integers(0, 99))
def test_auroc_with_ties_and_weights_is_sklearns(rows, seed):
    scores, positive = np.array([s for s, _ in rows], float), np.array([p for _, p in rows])
    weight = np.random.default_rng(seed).integers(1, 4, len(rows)).astype(float)
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert weighted_auroc(scores, positive, weight[None])[0] == pytest.approx(
        roc_auc_score(positive, scores, sample_weight=weight)
    )


@settings(max_examples=60, deadline=None)
@given(rows=SCORED, seed=st.integers(0, 99), fpr=st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5]))
def test_tpr_at_fpr_is_the_best_over_all_thresholds(rows, seed, fpr):
    scores, positive = np.array([s for s, _ in rows], float), np.array([p for _, p in rows])
    weight = np.random.default_rng(seed).integers(1, 4, len(rows)).astype(float)
    repeated, labels = np.repeat(scores, weight.astype(int)), np.repeat(positive, weight.astype(int))

    def brute(s, p):
        levels = [t for t in np.unique(np.r_[s, -np.inf]) if (s[~p] > t).mean() <= fpr + 1e-12]
        return max((s[p] > t).mean() for t in levels)

    assert tpr_at_fpr(scores, positive, fpr) == pytest.approx(brute(scores, positive))
    assert weighted_tpr_at_fpr(scores, positive, fpr, weight[None])[0] == pytest.approx(
        tpr_at_fpr(repeated, labels, fpr)
    )


def test_layers_are_columns():
    generator = np.random.default_rng(0)
    scores, positive = generator.normal(size=(50, 4)), np.arange(50) % 2 == 0
    np.testing.assert_allclose(auroc(scores, positive), [roc_auc_score(positive, column) for column in scores.T])
    assert tpr_at_fpr(scores, positive, 0.1).shape == (4,)


@pytest.mark.parametrize(
    ("negatives", "fpr", "fired"), [(300, 0.01, 3), (299, 0.01, 2), (99, 0.01, 0), (1000, 0.001, 1)]
)
def test_threshold_never_lets_more_fire_than_allowed(negatives, fpr, fired):
    scores = np.random.default_rng(0).permutation(negatives).astype(float)
    assert allowed(negatives, fpr) == fired
    assert (scores > threshold_at_fpr(scores, fpr)).sum() == fired


def test_threshold_is_conservative_under_ties():
    assert (np.ones(500) > threshold_at_fpr(np.ones(500), 0.01)).sum() == 0


def test_wilson_matches_its_published_values():
    # Newcombe (1998), table I, method 3 (score without continuity correction).
    for fired, total, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert tuple(rate(fired, total).interval) == pytest.approx((low, high), abs=5e-5)
    assert firing_rate(np.array([0.0, 1.0, 2.0]), 1.0).count == 1


def test_ten_answers_to_one_prompt_are_one_thing_seen():
    scores, groups = np.repeat([1.0] * 4 + [0.0] * 36, 10), np.repeat(np.arange(40), 10)
    found = firing_rate(scores, 0.5, groups)
    assert (found.value, found.count, found.n) == (0.1, 40, 400)
    assert found.interval == pytest.approx(rate(4, 40).interval, abs=0.03)
    assert firing_rate(scores, 0.5).width < 0.7 * found.width
    assert firing_rate(scores, 0.5, np.arange(400)) == firing_rate(scores, 0.5)


def _interval(scores, positive, groups, resamples=300, seed=0):
    return bootstrap_interval(lambda w: weighted_auroc(scores, positive, w), groups, resamples, seed)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    truth, hits = 0.7602, 0  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt(2))
    for seed in range(120):
        scores = np.random.default_rng(seed).normal(size=120)
        positive = np.arange(120) % 2 == 0
        low, high = _interval(scores + positive, positive, np.arange(120), seed=seed)
        hits += low <= truth <= high
    assert 0.88 <= hits / 120 <= 0.99


def test_resampling_groups_widens_the_interval_where_members_repeat_each_other():
    generator = np.random.default_rng(0)
    positive = np.repeat(np.arange(40) % 2 == 0, 10)
    scores = np.repeat(generator.normal(size=40) + 0.8 * (np.arange(40) % 2 == 0), 10)
    low, high = _interval(scores, positive, np.repeat(np.arange(40), 10))
    naive_low, naive_high = _interval(scores, positive, np.arange(400))
    assert high - low > 2 * (naive_high - naive_low)


def test_resampling_groups_narrows_it_where_twins_share_their_noise():
    generator = np.random.default_rng(0)
    shared, own = generator.normal(size=150), generator.normal(size=(2, 150)) * 0.2
    scores, positive = np.r_[shared + own[0] + 0.5, shared + own[1]], np.arange(300) < 150
    low, high = _interval(scores, positive, np.tile(np.arange(150), 2))
    naive_low, naive_high = _interval(scores, positive, np.arange(300))
    assert high - low < 0.6 * (naive_high - naive_low)


def test_bootstrap_is_seeded_and_fast_for_many_layers():
    generator = np.random.default_rng(0)
    scores, positive = generator.normal(size=(500, 8)), np.arange(500) % 2 == 0
    first, again = (_interval(scores, positive, np.arange(500) // 2, 200, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, _interval(scores, positive, np.arange(500) // 2, 200, seed=4))
    assert first.shape == (2, 8)


def copied_negatives(prompts, times):
    """Scores of so many negatives with as many rows each, below those of twenty positives."""
    scores, groups = np.repeat(np.linspace(0, 1, prompts), times), np.repeat(np.arange(prompts), times)
    return np.r_[scores, np.full(20, 2.0)], np.r_[groups, prompts + np.arange(20)]


def test_copies_of_a_negative_resolve_no_smaller_rate():
    """Three hundred rows of thirty prompts say of a false-positive rate about what thirty rows do."""
    scores, groups = copied_negatives(30, 10)
    positive = scores > 1
    test = LabelledScores(scores, positive, groups, 20)
    bound = firing_rate(np.zeros(300), 0.0, groups[~positive]).high
    assert rate(0, 300).high < 0.02 < bound
    for fpr in (0.01, 0.001):
        note = measure_tpr(test, fpr).note
        assert note.startswith(f"300 test negatives of 30 prompts or pairs cannot resolve {fpr:.1%}")
        assert note.endswith(
            f"at no false positive among them, which leaves a false-positive rate of up to {bound:.1%}"
        )
    thresholds, facts = calibrate(scores[~positive, None], groups[~positive], 0.01)
    assert "300 calibration negatives of 30 prompts or pairs cannot resolve 1.0%" in facts["note"]
    assert thresholds[0] == threshold_at_fpr(scores[~positive], 0.01), "the threshold is that of all rows"


def test_a_single_false_positive_is_one():
    scores, groups = copied_negatives(10, 10)
    scores[0] = 1.5
    positive = np.arange(len(scores)) >= 100
    scores[positive] = 3.0
    assert (
        "the rate at one false positive among them"
        in measure_tpr(LabelledScores(scores, positive, groups, 20), 0.01).note
    )


def test_false_positives_that_a_rate_allows_to_copies_are_in_its_bound():
    scores, groups = copied_negatives(30, 10)
    scores[:30] += np.linspace(0, 1, 30)  # no two of the first three prompts' rows alike
    positive = np.arange(len(scores)) >= 300
    scores[positive] = 3.0
    note = measure_tpr(LabelledScores(scores, positive, groups, 20), 0.01).note
    negatives = scores[~positive]
    fired = firing_rate(negatives, threshold_at_fpr(negatives, 0.01), groups[~positive])
    assert 0 < fired.count <= 3
    assert f"{fired.count} false positives among them" in note
    assert f"{fired.high:.1%}" in note


def test_negatives_that_stand_alone_resolve_a_rate_from_one_over_it_on():
    for n, resolved in ((100, True), (99, False)):
        scores = np.r_[np.linspace(0, 1, n), np.full(20, 2.0)]
        note = measure_tpr(LabelledScores(scores, scores > 1, np.arange(n + 20), 20), 0.01).note
        assert (note is None) == resolved
    assert note.startswith("99 test negatives cannot resolve 1.0%")
    assert f"up to {rate(0, 99).high:.1%}" in note
