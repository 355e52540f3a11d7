"""How well scores tell positives from negatives: AUROC, true-positive rate at a fixed false-positive rate, thresholds.

Everywhere a higher score means "more likely positive", and a prompt fires when its score is strictly above the threshold. Scores are [prompt] or [prompt column]; all columns are computed at once.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from triggerlens.estimate import Estimate, bootstrap_samples, effective_groups, percentile_interval, share_interval


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


def auroc_estimates(
    scores: Float[np.ndarray, "prompt layer"], positive: Bool[np.ndarray, "prompt"], groups: Int[np.ndarray, "prompt"]
) -> list[Estimate]:
    """AUROC of each column with its 95% interval (`share_interval`), which stays open where no error was seen.

    The variance is the jackknife's over whole groups (DeLong et al., 1988, Biometrics 44, 837; for groups that hold prompts of
    both classes Obuchowski, 1997, Biometrics 53, 567): a prompt counts by where it stands among those of the other class, and
    what a group's prompts have in common is one thing seen. Copies of a prompt in its group are no new evidence.

    Args:
        scores: higher means more likely positive.
        positive: the labels.
        groups: group number of each prompt: a pair, or copies of one text, share it.

    Raises:
        ValueError: one class only.
    """
    if positive.all() or not positive.any():
        raise ValueError("AUROC needs positives and negatives")
    _, member = np.unique(groups, return_inverse=True)
    sides = (member[positive], member[~positive])
    least = min(len(np.unique(side)) for side in sides)
    effective = min(effective_groups(side) for side in sides)
    above = np.stack([_placed(column[positive], column[~positive]) for column in scores.T], 1)
    below = np.stack([1 - _placed(column[~positive], column[positive]) for column in scores.T], 1)
    value = auroc(scores, positive)
    parts = np.zeros((int(member.max()) + 1, scores.shape[1]))
    for side, places in zip(sides, (above, below), strict=True):
        np.add.at(parts, side, (places - value) / len(side))
    variance = (parts**2).sum(0) * least / (least - 1) if least > 1 else np.full(len(value), np.nan)
    ends = share_interval(value, variance, effective).T
    return [Estimate(float(v), float(a), float(b), n=least) for v, (a, b) in zip(value, ends, strict=True)]


def auroc_estimate(
    scores: Float[np.ndarray, "prompt"], positive: Bool[np.ndarray, "prompt"], groups: Int[np.ndarray, "prompt"]
) -> Estimate:
    """As `auroc_estimates`, of a single score."""
    return auroc_estimates(scores[:, None], positive, groups)[0]


def _placed(mine: Float[np.ndarray, "prompt"], others: Float[np.ndarray, "other"]) -> Float[np.ndarray, "prompt"]:
    """The share of the others that each score lies above, ties counting half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, mine, "left") + np.searchsorted(ordered, mine, "right")) / 2 / len(ordered)


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
    """Highest true-positive rate, 0 to 1, among thresholds whose false-positive rate is at most `fpr` (never interpolated).

    Args:
        scores: higher means more likely positive.
        positive: the labels.
        fpr: in [0, 1).

    Raises:
        ValueError: no negatives, or `fpr` outside [0, 1).
    """
    columns = scores.reshape(len(positive), -1)
    thresholds = np.array([threshold_at_fpr(column, fpr) for column in columns[~positive].T])
    return (columns[positive] > thresholds).mean(0).reshape(scores.shape[1:])


def tpr_estimate(
    scores: Float[np.ndarray, "prompt"],
    positive: Bool[np.ndarray, "prompt"],
    groups: Int[np.ndarray, "prompt"],
    fpr: float,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """`tpr_at_fpr` of a single score with its 95% interval, in which the threshold varies with the negatives too.

    From the lower to the higher end of two: the bootstrap's over whole groups, and the exact one of a share of the positives at the
    bootstrap's variance (`share_interval`), which stays open where all positives lie above the threshold, or none. With fewer
    than about 4/fpr negatives the threshold itself is uncertain, and the estimate too high (`allowed` says where it is at none).

    Raises:
        ValueError: one class only.
    """
    if positive.all() or not positive.any():
        raise ValueError("a true-positive rate needs positives and negatives")
    value = float(tpr_at_fpr(scores, positive, fpr))
    samples = bootstrap_samples(partial(weighted_tpr_at_fpr, scores, positive, fpr), groups, resamples, seed)
    kept = samples[~np.isnan(samples)]
    variance = np.array(kept.var() if len(kept) > 1 else np.nan)
    own = groups[positive]
    ends = np.stack([percentile_interval(samples), share_interval(np.array(value), variance, effective_groups(own))])
    low, high = min(value, ends[:, 0].min()), max(value, ends[:, 1].max())
    return Estimate(value, float(low), float(high), n=len(np.unique(own)))


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
