"""The highest-scoring token, of a probe that was fitted to the mean over tokens."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from probes.poolings.base import Channels, Pooling, Running


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
        self.highest: Tensor | None = None

    def update(self, scores: Float[Tensor, "*row channel"]) -> Float[Tensor, "*row"]:
        self.highest = scores if self.highest is None else self.highest.maximum(scores)
        return self.highest.sum(-1)
