"""How well a score tells positives from negatives, with intervals; and how often it fires at a threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from triggerlens import Estimate, auroc_estimate, auroc_estimates, rate, tpr_estimate


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """Scores of some prompts, and what an interval needs to know of them."""

    scores: Float[np.ndarray, "prompt *column"]
    """Higher means more likely positive."""
    positive: Bool[np.ndarray, "prompt"]
    groups: Int[np.ndarray, "prompt"]
    """Group number of each prompt: a pair is resampled together."""
    resamples: int = 1000
    seed: int = 0

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


def firing_rate(scores: Float[np.ndarray, "prompt"], threshold: float) -> Estimate:
    """Share of prompts that score strictly above the threshold."""
    return rate(int((scores > threshold).sum()), len(scores))
