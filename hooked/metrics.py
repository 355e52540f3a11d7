"""How well scores tell positives from negatives, and bootstrap intervals that resample whole groups.

Everywhere a higher score means "more likely positive". Scores are [prompt] or [prompt column]; all columns are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> list[float]:
        """[low, high], as JSON has it."""
        return [self.low, self.high]


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
