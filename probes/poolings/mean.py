"""The mean over tokens, as deception probes read answers (arXiv 2502.03407). A short passage is diluted in a long text."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from probes.poolings.arrays import Array, double
from probes.poolings.base import Channels, Pooling, Running, TokenScores


class Mean(Pooling):
    """The mean of the tokens' scores, which for a linear score is the score of the mean."""

    read = "mean"

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return scores[..., 0].mean(0)

    def running(self) -> Running:
        return RunningMean()


class RunningMean:
    """The mean so far, of the first `most` tokens where that is given."""

    def __init__(self, most: int | None = None) -> None:
        self.most, self.seen = most, 0
        self.total: Array = 0.0

    def update(self, scores: TokenScores) -> Array:
        if self.most is None or self.seen < self.most:
            self.total = self.total + double(scores)[..., 0]
            self.seen += 1
        return self.total / self.seen
