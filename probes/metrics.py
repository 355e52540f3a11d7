"""Detection metrics: AUROC, true-positive rate at a fixed false-positive rate, thresholds and intervals.

Everywhere a higher score means "more likely positive", and a prompt fires when its score is strictly above the threshold.
Scores are [prompt] or [prompt layer]; all layers are computed at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hooked.intervals import wilson_interval
from hooked.metrics import Estimate, auroc, bootstrap_interval, percentile_interval, weighted_auroc

__all__ = [
    "Estimate",
    "Rate",
    "allowed",
    "auroc",
    "bootstrap_interval",
    "firing_rate",
    "percentile_interval",
    "threshold_at_fpr",
    "tpr_at_fpr",
    "weighted_auroc",
    "weighted_tpr_at_fpr",
    "wilson",
]


class Rate(NamedTuple):
    """How many of `total` fired, with the Wilson 95% interval of the rate."""

    fired: int
    total: int
    rate: Estimate


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


def wilson(fired: int, total: int) -> Rate:
    """A rate with its Wilson score interval; [0, 1] where nothing was seen."""
    value = fired / total if total else math.nan
    return Rate(fired, total, Estimate(value, *wilson_interval(fired, total)))


def firing_rate(scores: Float[np.ndarray, "prompt"], threshold: float) -> Rate:
    """Share of prompts that score strictly above the threshold."""
    return wilson(int((scores > threshold).sum()), len(scores))
