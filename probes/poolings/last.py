"""The last token alone: where a causal model has read all of the text."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from probes.poolings.arrays import Array, double
from probes.poolings.base import Channels, Pooling, Running, TokenScores


class Last(Pooling):
    """The score of the last token."""

    read = "last"

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return scores[-1, ..., 0]

    def running(self) -> Running:
        return RunningLast()


class RunningLast:
    """The score of the newest token."""

    def update(self, scores: TokenScores) -> Array:
        return double(scores)[..., 0]
