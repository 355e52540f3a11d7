"""The last token alone: where a causal model has read all of the text."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from probes.poolings.base import Channels, Pooling, Running


class Last(Pooling):
    """The score of the last token."""

    read = "last"

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return scores[-1, ..., 0]

    def running(self) -> Running:
        return RunningLast()


class RunningLast:
    """The score of the newest token."""

    def update(self, scores: Float[Tensor, "*row channel"]) -> Float[Tensor, "*row"]:
        return scores[..., 0]
