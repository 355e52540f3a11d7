"""Detection metrics: AUROC, true-positive rate at a fixed false-positive rate, thresholds and intervals.

Everywhere a higher score means "more likely positive", and a prompt fires when its score is strictly above the threshold.
Scores are [prompt] or [prompt layer]; all layers are computed at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from hooked.intervals import wilson_interval


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> list[float]:
        """[low, high], as JSON has it."""
        return [self.low, self.high]


class Rate(NamedTuple):
    """How many of `total` fired, with the Wilson 95% interval of the rate."""

    fired: int
    total: int
    rate: Estimate


def auroc(
    scores: Float[np.ndarray, "prompt *layer"], positive: Bool[np.ndarray, "prompt"]
) -> Float[np.ndarray, "*layer"]:
    """Probability that a positive scores above a negative, ties counting half (Mann-Whitney U).

    Raises:
        ValueError: one class only.
    """
    return np.asarray(weighted_auroc(scores, positive, np.ones((1, len(positive))))[0])


def weighted_auroc(
    scores: Float[np.ndarray, "prompt *layer"],
    positive: Bool[np.ndarray, "prompt"],
    weights: Float[np.ndarray, "resample prompt"],
) -> Float[np.ndarray, "resample *layer"]:
    """AUROC under each row of weights; NaN where a row gives a class no weight.

    Each layer is sorted once. A resample is then one cumulative sum over the sorted negatives: sum over positives of the
    negative weight below, plus half of the negative weight tied with it.

    Raises:
        ValueError: one class only.
    """
    if positive.all() or not positive.any():
        raise ValueError("AUROC needs positives and negatives")
    columns = scores.reshape(len(positive), -1)
    up, down = weights[:, positive], weights[:, ~positive]
    total = up.sum(1) * down.sum(1)
    out = np.empty((len(weights), columns.shape[1]))
    for i, column in enumerate(columns.T):
        order = np.argsort(column[~positive], kind="stable")
        ordered = column[~positive][order]
        below = np.zeros((len(weights), len(ordered) + 1))
        np.cumsum(down[:, order], axis=1, out=below[:, 1:])
        first, last = (np.searchsorted(ordered, column[positive], side=side) for side in ("left", "right"))
        wins = np.einsum("rp,rp->r", up, below[:, first]) + np.einsum("rp,rp->r", up, below[:, last])
        out[:, i] = wins / 2 / np.where(total > 0, total, np.nan)
    return out.reshape(len(weights), *scores.shape[1:])


def threshold_at_fpr(negatives: Float[np.ndarray, "negative"], fpr: float) -> float:
    """The lowest threshold at which at most the share `fpr` of the negatives fires.

    With fewer than 1/fpr negatives this is the highest negative score.

    Raises:
        ValueError: no negatives, or `fpr` outside [0, 1).
    """
    if not len(negatives) or not 0 <= fpr < 1:
        raise ValueError(f"need negatives and a rate in [0, 1), found {len(negatives)} and {fpr}")
    return float(np.sort(negatives)[::-1][allowed(len(negatives), fpr)])


def allowed(negatives: int, fpr: float) -> int:
    """How many of the negatives may fire at this rate (the small term keeps 0.01 * 300 from rounding to 2)."""
    return math.floor(fpr * negatives * (1 + 1e-12))


def tpr_at_fpr(
    scores: Float[np.ndarray, "prompt *layer"], positive: Bool[np.ndarray, "prompt"], fpr: float
) -> Float[np.ndarray, "*layer"]:
    """Highest true-positive rate among thresholds whose false-positive rate is at most `fpr` (never interpolated)."""
    columns = scores.reshape(len(positive), -1)
    thresholds = np.array([threshold_at_fpr(column, fpr) for column in columns[~positive].T])
    return (columns[positive] > thresholds).mean(0).reshape(scores.shape[1:])


def weighted_tpr_at_fpr(
    scores: Float[np.ndarray, "prompt"],
    positive: Bool[np.ndarray, "prompt"],
    fpr: float,
    weights: Float[np.ndarray, "resample prompt"],
) -> Float[np.ndarray, "resample"]:
    """`tpr_at_fpr` under each row of weights; NaN where a row gives a class no weight."""
    negative, up = scores[~positive], weights[:, positive]
    levels, where = np.unique(-negative, return_inverse=True)
    firing = np.zeros((len(weights), len(levels)))
    np.add.at(firing.T, where, weights[:, ~positive].T)
    firing = np.cumsum(firing, axis=1)
    total = firing[:, -1]
    # The threshold is the highest negative level that may not fire: levels above it hold at most fpr of the weight.
    blocked = np.argmax(firing > (fpr * total * (1 + 1e-12))[:, None], axis=1)
    order = np.argsort(-scores[positive], kind="stable")
    passed = np.zeros((len(weights), len(order) + 1))
    np.cumsum(up[:, order], axis=1, out=passed[:, 1:])
    above = np.searchsorted(-scores[positive][order], levels[blocked], side="left")
    shares = passed[np.arange(len(weights)), above] / np.where(passed[:, -1] > 0, passed[:, -1], np.nan)
    return np.where(total > 0, shares, np.nan)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray], groups: Int[np.ndarray, "prompt"], resamples: int, seed: int
) -> Float[np.ndarray, "2 *layer"]:
    """The central 95% of a statistic over resamples of whole groups: a pair is drawn or left out together.

    Args:
        statistic: from prompt weights [resample prompt] to [resample *layer]; NaN where a class has no weight.
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


def percentile_interval(samples: Float[np.ndarray, "resample *layer"]) -> Float[np.ndarray, "2 *layer"]:
    """The central 95% of bootstrap samples; resamples in which a class is missing (NaN) are left out."""
    kept = samples[~np.isnan(samples.reshape(len(samples), -1)).any(1)]
    if not len(kept):
        return np.broadcast_to(np.array([0.0, 1.0]).reshape(2, *[1] * (samples.ndim - 1)), (2, *samples.shape[1:]))
    return np.quantile(kept, [0.025, 0.975], axis=0)


def wilson(fired: int, total: int) -> Rate:
    """A rate with its Wilson score interval; [0, 1] where nothing was seen."""
    value = fired / total if total else math.nan
    return Rate(fired, total, Estimate(value, *wilson_interval(fired, total)))


def firing_rate(scores: Float[np.ndarray, "prompt"], threshold: float) -> Rate:
    """Share of prompts that score strictly above the threshold."""
    return wilson(int((scores > threshold).sum()), len(scores))
