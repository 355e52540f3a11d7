"""The mean over the first N tokens: the same number of tokens whatever the text's length, and a verdict that comes early."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from probes.poolings.base import Channels, Pooling, Running
from probes.poolings.mean import RunningMean


class First(Pooling):
    """The mean of the first `most` tokens' scores, or of all where there are fewer."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.read = f"first:{most}"

    @classmethod
    def named(cls, argument: str) -> First:
        return cls(int(argument))

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return scores[: self.most, ..., 0].mean(0)

    def running(self) -> Running:
        return RunningMean(self.most)
