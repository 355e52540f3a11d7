"""The mean over tokens, as deception probes read answers (arXiv 2502.03407). A short passage is diluted in a long text."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.poolings.base import Channels, Pooling, Running


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
        self.total = torch.zeros((), dtype=torch.float64)

    def update(self, scores: Float[Tensor, "*row channel"]) -> Float[Tensor, "*row"]:
        if self.most is None or self.seen < self.most:
            self.total = self.total.to(scores.device) + scores[..., 0].double()
            self.seen += 1
        return self.total / self.seen
