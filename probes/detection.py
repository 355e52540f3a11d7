"""How well a score tells positives from negatives, with intervals; and how often it fires at a threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from triggerlens import Estimate, auroc_estimate, auroc_estimates, rate_over_groups, threshold_at_fpr, tpr_estimate


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """Scores of some prompts, and what an interval needs to know of them."""

    scores: Float[np.ndarray, "prompt *column"]
    """Higher means more likely positive."""
    positive: Bool[np.ndarray, "prompt"]
    """Whether each prompt is a positive."""
    groups: Int[np.ndarray, "prompt"]
    """Group number of each prompt: a pair is resampled together."""
    resamples: int = 1000
    """Resamples of groups behind an interval."""
    seed: int = 0
    """Of the resampling."""

    def of(self, scores: Float[np.ndarray, "prompt *column"]) -> LabelledScores:
        """Other scores of the same prompts."""
        return replace(self, scores=scores)

    def take(self, rows: Int[np.ndarray, "row"], positive: Bool[np.ndarray, "row"] | None = None) -> LabelledScores:
        """The scores of some prompts, under other labels where these are given."""
        labels = self.positive[rows] if positive is None else positive
        return replace(self, scores=self.scores[rows], positive=labels, groups=self.groups[rows])

    def auroc(self) -> Estimate:
        """AUROC of a single score, with the interval of `triggerlens.auroc_estimates`.

        Raises:
            ValueError: one class only.
        """
        return auroc_estimate(self.scores, self.positive, self.groups)

    def aurocs(self) -> list[Estimate]:
        """AUROC of each column.

        Raises:
            ValueError: one class only.
        """
        return auroc_estimates(self.scores, self.positive, self.groups)

    def tpr(self, fpr: float) -> Estimate:
        """True-positive rate of a single score where at most the share `fpr` of the negatives fires, in [0, 1].

        Raises:
            ValueError: one class only.
        """
        return tpr_estimate(self.scores, self.positive, self.groups, fpr, self.resamples, self.seed)


def firing_rate(
    scores: Float[np.ndarray, "prompt"], threshold: float, groups: Int[np.ndarray, "prompt"] | None = None
) -> Estimate:
    """Share of prompts that score strictly above the threshold. What shares a group (several answers to one prompt) is one thing seen; all stand alone
    where no groups are given."""
    return rate_over_groups(scores > threshold, np.arange(len(scores)) if groups is None else groups)


def negatives_text(split: str, groups: Int[np.ndarray, "negative"]) -> str:
    """`120 test negatives`, and of how many prompts or pairs they are where several share one."""
    apart = len(np.unique(groups))
    return f"{len(groups)} {split} negatives{'' if apart == len(groups) else f' of {apart} prompts or pairs'}"


LOWEST = 0.01
"""Share of positives that a midway threshold leaves out of account."""


def midway_threshold(
    negatives: Float[np.ndarray, "negative"],
    positives: Float[np.ndarray, "positive"],
    fpr: float,
    *,
    interpolated: bool = False,
) -> float:
    """Midway between the threshold at a false-positive rate and the lowest positives, where these lie above it; else that threshold.

    Half-way between the classes is where a threshold is farthest from both (the largest margin of Boser, Guyon and Vapnik, 1992; with a
    share of each class left out of account, as a soft margin does, Cortes and Vapnik, 1995). Of the scores that are given, no more negatives
    fire than at the threshold itself, and where the classes lie apart no more than the share `LOWEST` of the positives is missed. What is
    gained is room for texts unlike these, on either side.

    Args:
        negatives: their scores.
        positives: their scores; none where no positive is known.
        fpr: at most this share of the negatives may fire, in [0, 1).
        interpolated: take a value between two of the lowest positives where no whole number of them is `LOWEST`. Of fewer than 100 positives that can miss
            more than this share though the classes lie apart. It is what the committed results of `answer-monitor` were measured with.

    Raises:
        ValueError: no negatives, or `fpr` outside [0, 1).
    """
    low = threshold_at_fpr(negatives, fpr)
    if not len(positives):
        return low
    return max(low, (low + float(np.quantile(positives, LOWEST, method="linear" if interpolated else "lower"))) / 2)
