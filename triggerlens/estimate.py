"""A number with its 95% interval: of a rate (Wilson), of a mean or an AUROC of few groups of prompts, over seeds.

No interval here is ever a point. Where nothing was seen that could differ (perfect separation, all values equal, a single
value), a bootstrap returns the value alone, as if it were known exactly; these stay as open as so few groups leave them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

FEWEST = 10
"""Prompts (or pairs, or whatever is counted) of each kind that a sentence needs: with fewer it says that it cannot tell.
Ten of ten still leave three in ten open."""
WIDE = 0.4
"""An interval of a share or an AUROC wider than this (a value ± 0.2) says too little to call anything alike, or to call a
number reached."""
_NONE = 1e-9
_ROUNDING = 1e-6
"""Numbers that differ by less, as a share of the largest, are equal in float32 but for their last bits."""
_MEANS, _CORRELATIONS = 256, 32
"""Steps in which `grouped_rate` goes through what may be."""
_EVIDENCE = 1.0
"""Groups' worth of the largest possible variance that a measured variance is averaged with; see `share_interval`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    """NaN for a rate of nothing (n = 0)."""
    low: float
    """Minus infinity where no lower end is known, as of a single value that could be anything."""
    high: float
    """Infinity where no upper end is known."""
    count: int | None = None
    """Of a rate: how many of `n` were hits."""
    n: int | None = None
    """What it rests on: of a rate, how many were looked at; of an AUROC, the groups of prompts of the rarer class; of a
    mean, its values."""

    @property
    def interval(self) -> list[float]:
        """[low, high]."""
        return [self.low, self.high]

    @property
    def width(self) -> float:
        """From end to end; infinite where an end is not known."""
        return self.high - self.low

    @property
    def few(self) -> bool:
        """Whether it rests on fewer than `FEWEST`, as far as is known."""
        return self.n is not None and self.n < FEWEST

    def complement(self) -> Estimate:
        """The estimate of one minus this number: what did not fire, where this is the rate of what did."""
        missed = None if self.count is None or self.n is None else self.n - self.count
        return Estimate(1 - self.value, 1 - self.high, 1 - self.low, missed, self.n)

    def __str__(self) -> str:
        ends = ", ".join(f"{end:.3f}" if math.isfinite(end) else "–" for end in self.interval)
        return f"{self.value:.3f} [{ends}]"


def rate(count: int, n: int) -> Estimate:
    """A proportion with its 95% score interval (Wilson, 1927): sound at 0 and at n, where the normal one is not.

    Args:
        count: how many of `n` were hits, 0 to n.
        n: sample size; where it is 0 nothing is known: the value is NaN and the interval [0, 1].

    Raises:
        ValueError: count is outside 0 to n.
    """
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is no proportion")
    if not n:
        return Estimate(math.nan, 0.0, 1.0, 0, 0)
    from scipy.stats import binomtest

    low, high = binomtest(count, n).proportion_ci(0.95, method="wilson")
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    return Estimate(count / n, float(low) if count else 0.0, float(high) if count < n else 1.0, count, n)


def grouped_rate(hits: Sequence[int], sizes: Sequence[int]) -> Estimate:
    """A proportion of things that come in groups which may be alike, as the tokens of an answer or the models of one base.

    1. Of a group the hits are beta-binomial (Skellam, 1948, J. R. Stat. Soc. B 10, 257): its own rate scatters about the mean by an intraclass correlation
       between 0, where things are independent, and 1, where a group is one thing.
    2. The interval is the central 95% of the mean given the hits, the correlation being as likely anywhere between 0 and 1, and the mean by Jeffreys' prior.
       What is alike within groups shows in the hits: ten spread evenly over groups tell more than ten in one.
    3. It is never narrower than the Wilson interval of as many independent things, and that where every group is of one.

    Args:
        hits: how many of each group were hits.
        sizes: how many things each group has; those of none do not count.

    Raises:
        ValueError: a group has more hits than things.
    """
    if any(not 0 <= hit <= size for hit, size in zip(hits, sizes, strict=True)):
        raise ValueError("a group has more hits than things")
    whole = rate(sum(hits), sum(sizes))
    if all(size <= 1 for size in sizes):
        return whole
    from scipy.special import betaln

    groups, counts = np.unique([own for own in zip(hits, sizes, strict=True) if own[1]], axis=0, return_counts=True)
    mean = np.sin((np.arange(_MEANS) + 0.5) / _MEANS * np.pi / 2) ** 2  # even steps of the angle are Jeffreys' prior
    correlation = (np.arange(_CORRELATIONS) + 0.5) / _CORRELATIONS
    more, less = (np.outer(own, (1 - correlation) / correlation) for own in (mean, 1 - mean))
    each = [count * betaln(hit + more, size - hit + less) for (hit, size), count in zip(groups, counts, strict=True)]
    log = np.sum(each, 0) - counts.sum() * betaln(more, less)
    weight = np.exp(log - log.max()).sum(1)
    below = (np.cumsum(weight) - weight / 2) / weight.sum()
    low, high = np.interp([0.025, 0.975], below, mean)
    low, high = (0.0 if not whole.count else low), (1.0 if whole.count == whole.n else high)
    return Estimate(whole.value, min(whole.low, float(low)), max(whole.high, float(high)), whole.count, whole.n)


def rate_over_groups(hits: Bool[np.ndarray, "thing"], groups: Shaped[np.ndarray, "thing"]) -> Estimate:
    """`grouped_rate` of things one by one: which are hits, and of which group each is."""
    member = np.unique(groups, return_inverse=True)[1]
    return grouped_rate(np.bincount(member, weights=hits).astype(int).tolist(), np.bincount(member).tolist())


def share_interval(
    value: Float[np.ndarray, "*column"], variance: Float[np.ndarray, "*column"], groups: int | float
) -> Float[np.ndarray, "2 *column"]:
    """The 95% interval of a number between 0 and 1 that is a mean over groups: a share, an AUROC, a true-positive rate.

    The exact interval of a proportion (Clopper and Pearson, 1934) at the effective sample size, as Korn and Graubard (1998,
    Survey Methodology 24, 193) give it for clustered samples with few or no failures:

    1. Of all distributions on [0, 1] with mean p, a coin's varies most: one group's variance is at most p (1 - p). For an AUROC
       that holds with the groups of the rarer class (Birnbaum and Klose, 1957, Ann. Math. Stat. 28, 933).
    2. The measured variance is averaged with that largest one, which counts as one group: without an error to measure by,
       the worst is assumed; with many, the measured variance decides, and with it what pairing gains or clusters cost.
    3. Their quotient is the design effect. The interval is the exact one of `groups` / design effect tosses of a coin.

    Args:
        value: the mean, 0 to 1.
        variance: of the mean, as measured between groups; NaN where a single group shows none.
        groups: independent groups that it is a mean over (`effective_groups`), at least 1.
    """
    from scipy.special import betaincinv

    largest = groups * value * (1 - value)
    design = (groups**2 * variance + _EVIDENCE) / (largest + _EVIDENCE)
    tosses = groups / np.where(np.isnan(design), 1.0, design)
    hits, misses = tosses * value, tosses * (1 - value)
    # The beta distribution has no parameter 0, and an end of 1e-300 is 0.
    low = betaincinv(np.maximum(hits, _NONE), misses + 1, 0.025)
    high = betaincinv(hits + 1, np.maximum(misses, _NONE), 0.975)
    return np.stack([np.where(low < _NONE, 0.0, low), np.where(high > 1 - _NONE, 1.0, high)])


def effective_groups(groups: Int[np.ndarray, "prompt"]) -> float:
    """How many groups of equal size would tell as much about a mean over prompts (Kish, 1965): (Σ size)² / Σ size²."""
    sizes = np.unique(groups, return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def mean_of(values: Sequence[float], low: float = -math.inf, high: float = math.inf) -> Estimate:
    """The mean of independent numbers with its 95% interval, Student's.

    Where no two numbers differ by more than rounding, no spread was seen: then the interval is as wide as so many numbers between `low` and `high`
    leave it (`mean_share`), and without known ends it is infinite.

    Args:
        values: at least one.
        low: no number can be less.
        high: no number can be more.

    Raises:
        ValueError: there is no number.
    """
    if not len(values):
        raise ValueError("no value to take the mean of")
    array = np.asarray(values, dtype=np.float64)
    value, n = float(array.mean()), len(array)
    if np.ptp(array) > _ROUNDING * np.abs(array).max():
        from scipy.special import stdtrit

        half = float(stdtrit(n - 1, 0.975)) * float(array.std(ddof=1)) / math.sqrt(n)
        return Estimate(value, max(low, value - half), min(high, value + half), n=n)
    if math.isfinite(low) and math.isfinite(high):
        return mean_between(value, n, low, high)
    return Estimate(value, low, high, n=n)


def mean_between(value: float, n: int, low: float = 0.0, high: float = 1.0) -> Estimate:
    """A mean of which nothing is known but that it is of `n` independent numbers between two ends.

    The interval is that of numbers which vary as much as any with this mean can (`share_interval`).

    Args:
        value: the mean, `low` to `high`.
        n: how many numbers it is of, at least 1.
        low: no number can be less.
        high: no number can be more.
    """
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    ends = low + (high - low) * share_interval(np.array(share), np.array(math.nan), n)
    return Estimate(value, min(value, float(ends[0])), max(value, float(ends[1])), n=n)


def mean_share(values: Float[np.ndarray, "sample *column"]) -> Float[np.ndarray, "2 *column"]:
    """The 95% interval of the mean of independent numbers between 0 and 1, such as a share for each pair of prompts."""
    n = len(values)
    variance = values.var(0, ddof=1) / n if n > 1 else np.full(values.shape[1:], np.nan)
    return share_interval(np.asarray(np.clip(values.mean(0), 0, 1)), np.asarray(variance), n)


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of the values, and the widest reach of the seeds' intervals: never narrower than any one seed's.

    Counts are added up where every seed looked at as many, so that the value is still their quotient, and at `FEWEST` or more. Otherwise the mean rests on
    what the smallest of them rests on: seeds may share their prompts, and few prompts seen often are few.

    Raises:
        ValueError: there is no estimate.
    """
    if not estimates:
        raise ValueError("no seed to take the mean over")
    value = sum(estimate.value for estimate in estimates) / len(estimates)
    low, high = min(estimate.low for estimate in estimates), max(estimate.high for estimate in estimates)
    counts = [estimate.count for estimate in estimates if estimate.count is not None]
    sizes = [estimate.n for estimate in estimates if estimate.n is not None]
    if len(estimates) == 1:
        return estimates[0]
    if len(counts) == len(sizes) == len(estimates) and len(set(sizes)) == 1 and not estimates[0].few:
        return Estimate(value, low, high, sum(counts), sum(sizes))
    return Estimate(value, low, high, n=min(sizes) if len(sizes) == len(estimates) else None)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """First less second, with the 95% interval that theirs give (Newcombe, 1998, Statistics in Medicine 17, 873, method 10).

    For independent numbers; too wide for numbers that rise and fall together, as of the same prompts.
    """
    value = first.value - second.value
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - down, value + up)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray], groups: Int[np.ndarray, "prompt"], resamples: int, seed: int
) -> Float[np.ndarray, "2 *column"]:
    """The central 95% of a statistic over resamples of whole groups: a pair is drawn or left out together.

    Not for a number at the end of its range, such as an AUROC of 1: there no resample differs, and the interval is a point
    (`share_interval` is for those).

    Args:
        statistic: from prompt weights [resample prompt] to [resample *column]; NaN where a class has no weight.
        groups: group number of each prompt.
        resamples: how many; they are made in chunks, so that memory does not grow with them.
        seed: the same seed gives the same resamples whatever the statistic.
    """
    return percentile_interval(bootstrap_samples(statistic, groups, resamples, seed))


def bootstrap_samples(
    statistic: Callable[[np.ndarray], np.ndarray], groups: Int[np.ndarray, "prompt"], resamples: int, seed: int
) -> Float[np.ndarray, "resample *column"]:
    """A statistic of resamples of whole groups; arguments as `bootstrap_interval`."""
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    generator = np.random.default_rng(seed)
    chunk = max(1, min(resamples, 4_000_000 // len(groups)))
    samples = []
    for start in range(0, resamples, chunk):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=min(chunk, resamples - start))
        samples.append(statistic(drawn[:, member].astype(np.float64)))
    return np.concatenate(samples)


def percentile_interval(samples: Float[np.ndarray, "resample *column"]) -> Float[np.ndarray, "2 *column"]:
    """The central 95% of bootstrap samples; resamples in which a class is missing (NaN) are left out."""
    kept = samples[~np.isnan(samples.reshape(len(samples), -1)).any(1)]
    if not len(kept):
        return np.broadcast_to(np.array([0.0, 1.0]).reshape(2, *[1] * (samples.ndim - 1)), (2, *samples.shape[1:]))
    return np.quantile(kept, [0.025, 0.975], axis=0)
