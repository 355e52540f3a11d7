"""Intervals of few prompts: never a point, and they cover the truth as often as they say, where a bootstrap's do not."""

import math
from functools import partial

import numpy as np
import pytest
from scipy.stats import beta, norm

from triggerlens import (
    Estimate,
    auroc,
    auroc_estimate,
    auroc_estimates,
    bootstrap_interval,
    difference,
    mean_between,
    mean_of,
    mean_share,
    rate,
    share_interval,
    tpr_estimate,
    weighted_auroc,
    weighted_tpr_at_fpr,
)


def separate(positives, negatives):
    """Scores of prompts that stand alone, all positives above all negatives."""
    positive = np.arange(positives + negatives) < positives
    return positive + np.linspace(0, 0.5, len(positive)), positive, np.arange(len(positive))


@pytest.mark.parametrize(("positives", "negatives", "low"), [(1, 98, 0.025), (2, 98, 0.158), (10, 40, 0.692)])
def test_perfect_separation_says_no_more_than_as_many_tosses_of_a_coin(positives, negatives, low):
    """Clopper and Pearson's interval of n of n, n the positives: which fail as often as that, the negatives cannot show."""
    scores, positive, groups = separate(positives, negatives)
    for sign, best in ((1, True), (-1, False)):
        estimate = auroc_estimate(sign * scores, positive, groups)
        ends = (low, 1.0) if best else (0.0, 1 - low)
        assert tuple(estimate.interval) == pytest.approx(ends, abs=5e-4)
        assert (estimate.value, estimate.n, estimate.few) == (float(best), positives, positives < 10)


def test_the_exact_interval_is_the_published_one_where_nothing_but_the_count_is_known():
    for count, n in ((0, 20), (1, 29), (15, 148), (81, 263)):
        ends = mean_between(count / n, n).interval
        exact = (beta.ppf(0.025, count, n - count + 1) if count else 0.0, beta.ppf(0.975, count + 1, n - count))
        assert tuple(ends) == pytest.approx(exact)


def test_with_many_errors_the_measured_variance_decides():
    narrow, usual = share_interval(np.full(2, 0.5), np.array([0.0001, 0.000625]), 400).T
    assert narrow == pytest.approx((0.48, 0.52), abs=2e-3)
    assert usual == pytest.approx((0.451, 0.549), abs=2e-3)


def test_copies_within_a_group_are_no_new_evidence_and_columns_are_what_each_gives_alone():
    generator = np.random.default_rng(0)
    scores, positive, groups = generator.normal(size=(40, 3)), np.arange(40) % 4 == 0, np.arange(40)
    once = auroc_estimates(scores, positive, groups)
    assert [each.value for each in once] == pytest.approx(auroc(scores, positive))
    copied = auroc_estimates(*(np.repeat(each, 5, axis=0) for each in (scores, positive, groups)))
    for one, many, column in zip(once, copied, scores.T, strict=True):
        assert one.interval == pytest.approx(many.interval)
        alone = auroc_estimate(column, positive, groups)
        assert (one.value, one.low, one.high) == pytest.approx((alone.value, alone.low, alone.high))
    with pytest.raises(ValueError, match="positives and negatives"):
        auroc_estimates(scores, np.ones(40, bool), groups)


def coins(generator, pairs, missed):
    """Positives score above all negatives but for a share `missed` of them, which cannot be told from these."""
    misses = generator.random(pairs) < missed
    scores = np.r_[np.where(misses, 0, 9) + generator.normal(size=pairs), generator.normal(size=4 * pairs)]
    return scores, np.arange(5 * pairs) < pairs, np.arange(5 * pairs)


def twins(generator, pairs, apart):
    """Pairs whose two prompts share most of what they vary by."""
    shared, own = generator.normal(size=pairs), generator.normal(size=(2, pairs)) * 0.5
    scores = np.r_[shared + own[0] + apart, shared + own[1]]
    return scores, np.arange(2 * pairs) < pairs, np.tile(np.arange(pairs), 2)


def ties(generator, pairs, apart):
    """Whole numbers, two prompts to the group."""
    scores, positive, groups = twins(generator, pairs, apart)
    copies = np.repeat(np.arange(2 * pairs), 2)
    return np.round(scores[copies]), positive[copies], np.r_[groups, groups + pairs][copies]


AUROCS = {coins: lambda missed: 1 - missed / 2, twins: lambda apart: norm.cdf(apart / math.sqrt(2.5))}
WORLDS = [(coins, 0.02), (coins, 0.3), (twins, 0.0), (twins, 2.5), (twins, 4.0), (ties, 1.0), (ties, 3.0)]


def truth(world, setting):
    """What few prompts are to cover."""
    if world in AUROCS:
        return AUROCS[world](setting)
    scores, positive, _ = world(np.random.default_rng(9), 20_000, setting)
    return float(auroc(scores, positive))


@pytest.mark.parametrize(("world", "setting"), WORLDS)
@pytest.mark.parametrize("pairs", [2, 5, 20])
def test_an_auroc_is_covered_where_a_bootstrap_does_not_cover_it(world, setting, pairs):
    true, ours, old = truth(world, setting), 0, 0
    for seed in range(200):
        scores, positive, groups = world(np.random.default_rng(seed), pairs, setting)
        low, high = auroc_estimate(scores, positive, groups).interval
        ours += low <= true <= high
        if seed % 4 == 0:
            low, high = bootstrap_interval(partial(weighted_auroc, scores, positive), groups, 200, seed)
            old += low <= true <= high
    assert ours / 200 >= 0.94, f"{ours / 200:.3f}; the bootstrap {old / 50:.2f}"
    if pairs == 2 or true > 0.97:
        assert old / 50 < 0.9


@pytest.mark.parametrize(("positives", "apart"), [(2, 1.0), (2, 4.0), (10, 2.5), (10, 4.0), (40, 2.5)])
def test_a_rate_at_a_false_positive_rate_is_covered_too(positives, apart):
    true, ours, old = 1 - norm.cdf(norm.ppf(0.9) - apart), 0, 0
    positive = np.arange(positives + 60) < positives
    for seed in range(100):
        scores = np.random.default_rng(seed).normal(size=len(positive)) + apart * positive
        estimate = tpr_estimate(scores, positive, np.arange(len(positive)), 0.1, 200, seed)
        ours += estimate.low <= true <= estimate.high
        assert estimate.low < estimate.high
        old_low, old_high = bootstrap_interval(
            partial(weighted_tpr_at_fpr, scores, positive, 0.1), np.arange(len(positive)), 200, seed
        )
        old += old_low <= true <= old_high
    assert ours >= 94, f"the bootstrap {old}"
    assert old < 90 or positives == 40


def test_no_spread_is_known_of_a_single_number_or_of_equal_ones():
    assert mean_of([2.0]) == Estimate(2.0, -math.inf, math.inf, n=1)
    assert mean_of([2.0, 2.0], low=0.0) == Estimate(2.0, 0.0, math.inf, n=2)
    assert mean_of([1.0], 0.0, 1.0).interval == pytest.approx([0.025, 1.0])
    assert mean_of([0.7] * 3, 0.0, 1.0).width > 0.7
    assert mean_of([1.0, 1.1]).interval == pytest.approx([1.05 - 12.706 * 0.05, 1.05 + 12.706 * 0.05], rel=1e-3)
    with pytest.raises(ValueError, match="no value"):
        mean_of([])


def test_shares_that_are_all_equal_stay_open():
    low, high = mean_share(np.ones(8))
    assert (low, high) == (pytest.approx(0.025 ** (1 / 8)), 1.0)
    both = mean_share(np.array([[1.0, 0.2], [1.0, 0.4], [1.0, 0.3]]))
    assert both.shape == (2, 2)
    assert (both[1] > both[0]).all()
    assert mean_between(1e-4, 200, 0.0, math.log(2)).interval == pytest.approx([0.0, 0.0129], abs=2e-4)


def test_a_difference_has_newcombes_interval():
    # Newcombe (1998), table II, method 10.
    assert difference(rate(56, 70), rate(48, 80)).interval == pytest.approx([0.0524, 0.3339], abs=5e-5)
    assert difference(rate(9, 10), rate(3, 10)).interval == pytest.approx([0.1705, 0.8090], abs=5e-5)
    assert difference(rate(10, 10), rate(0, 20)).interval == pytest.approx([0.6791, 1.0], abs=5e-5)
