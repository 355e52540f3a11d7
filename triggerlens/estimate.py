"""A number with its 95% interval: of a rate (Wilson), over resamples of whole groups (bootstrap), or over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Z95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    """NaN for a rate of nothing (n = 0)."""
    low: float
    high: float
    count: int | None = None
    """Of a rate: how many of `n` were hits."""
    n: int | None = None
    """Of a rate: how many were looked at."""

    @property
    def interval(self) -> list[float]:
        """[low, high], as JSON has it."""
        return [self.low, self.high]

    def complement(self) -> Estimate:
        """The estimate of one minus this number: what did not fire, where this is the rate of what did."""
        missed = None if self.count is None or self.n is None else self.n - self.count
        return Estimate(1 - self.value, 1 - self.high, 1 - self.low, missed, self.n)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


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


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of the values, and the widest reach of the seeds' intervals: never narrower than any one seed's.

    Counts are added up where every seed looked at as many, so that the value is still their quotient.

    Raises:
        ValueError: there is no estimate.
    """
    if not estimates:
        raise ValueError("no seed to take the mean over")
    value = sum(estimate.value for estimate in estimates) / len(estimates)
    low, high = min(estimate.low for estimate in estimates), max(estimate.high for estimate in estimates)
    counts = [estimate.count for estimate in estimates if estimate.count is not None]
    sizes = {estimate.n for estimate in estimates}
    if len(counts) < len(estimates) or len(sizes) > 1:
        return Estimate(value, low, high)
    return Estimate(value, low, high, sum(counts), len(counts) * (sizes.pop() or 0))


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray], groups: Int[np.ndarray, "prompt"], resamples: int, seed: int
) -> Float[np.ndarray, "2 *column"]:
    """The central 95% of a statistic over resamples of whole groups: a pair is drawn or left out together.

    Args:
        statistic: from prompt weights [resample prompt] to [resample *column]; NaN where a class has no weight.
        groups: group number of each prompt.
        resamples: how many; they are made in chunks, so that memory does not grow with them.
        seed: the same seed gives the same resamples whatever the statistic.
    """
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    generator = np.random.default_rng(seed)
    chunk = max(1, min(resamples, 4_000_000 // len(groups)))
    samples = []
    for start in range(0, resamples, chunk):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=min(chunk, resamples - start))
        samples.append(statistic(drawn[:, member].astype(np.float64)))
    return percentile_interval(np.concatenate(samples))


def bootstrap_mean(
    values: Float[np.ndarray, "sample *column"], resamples: int = 2000, seed: int = 0
) -> Float[np.ndarray, "2 *column"]:
    """The central 95% of the mean of independent samples, such as one value a pair of prompts."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return np.quantile(values[drawn].mean(1), (0.025, 0.975), axis=0)


def percentile_interval(samples: Float[np.ndarray, "resample *column"]) -> Float[np.ndarray, "2 *column"]:
    """The central 95% of bootstrap samples; resamples in which a class is missing (NaN) are left out."""
    kept = samples[~np.isnan(samples.reshape(len(samples), -1)).any(1)]
    if not len(kept):
        return np.broadcast_to(np.array([0.0, 1.0]).reshape(2, *[1] * (samples.ndim - 1)), (2, *samples.shape[1:]))
    return np.quantile(kept, [0.025, 0.975], axis=0)


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean of independent numbers, with its 95% interval by the standard error; no spread is known of a single one.

    Raises:
        ValueError: there is no number.
    """
    if not len(values):
        raise ValueError("no value to take the mean of")
    array = np.asarray(values, dtype=np.float64)
    half = Z95 * float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else 0.0
    value = float(array.mean())
    return Estimate(value, value - half, value + half, n=len(array))
