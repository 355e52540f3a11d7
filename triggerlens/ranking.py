"""How well scores tell positives from negatives: AUROC, true-positive rate at a fixed false-positive rate, thresholds.

Everywhere a higher score means "more likely positive", and a prompt fires when its score is strictly above the threshold. Scores are [prompt] or [prompt column]; all columns are computed at once.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float


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
