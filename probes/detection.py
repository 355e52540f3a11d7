"""How well a score tells positives from negatives, with intervals; and how often it fires at a threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from triggerlens import Estimate, auroc, bootstrap_interval, rate, tpr_at_fpr, weighted_auroc, weighted_tpr_at_fpr


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
        """AUROC of a single score, with the interval of a bootstrap over groups.

        Raises:
            ValueError: one class only.
        """
        return self.of(self.scores[:, None]).aurocs()[0]

    def aurocs(self) -> list[Estimate]:
        """AUROC of each column.

        Raises:
            ValueError: one class only.
        """
        low, high = self._interval(lambda weights: weighted_auroc(self.scores, self.positive, weights))
        values = auroc(self.scores, self.positive)
        return [Estimate(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)]

    def tpr(self, fpr: float) -> Estimate:
        """True-positive rate of a single score where at most the share `fpr` of the negatives fires, in [0, 1]."""
        low, high = self._interval(lambda weights: weighted_tpr_at_fpr(self.scores, self.positive, fpr, weights))
        return Estimate(float(tpr_at_fpr(self.scores, self.positive, fpr)), float(low), float(high))

    def _interval(self, statistic: Callable[[np.ndarray], np.ndarray]) -> Float[np.ndarray, "2 *column"]:
        return bootstrap_interval(statistic, self.groups, self.resamples, self.seed)


def firing_rate(scores: Float[np.ndarray, "prompt"], threshold: float) -> Estimate:
    """Share of prompts that score strictly above the threshold."""
    return rate(int((scores > threshold).sum()), len(scores))
