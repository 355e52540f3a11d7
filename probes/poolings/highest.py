"""The highest-scoring token, of a probe that was fitted to the mean over tokens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from probes.poolings.arrays import Array, double, library_of
from probes.poolings.base import Channels, Pooling, Running, TokenScores


class Highest(Pooling):
    """The highest of the tokens' scores."""

    read = "mean"

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return scores[..., 0].amax(0)

    def running(self) -> Running:
        return RunningHighest()


class RunningHighest:
    """The highest score so far in each channel, and their sum."""

    def __init__(self) -> None:
        self.highest: Tensor | np.ndarray | None = None

    def update(self, scores: TokenScores) -> Array:
        scores = double(scores)
        self.highest = scores if self.highest is None else library_of(scores).maximum(self.highest, scores)
        return self.highest[..., 0] if self.highest.shape[-1] == 1 else self.highest.sum(-1)
