"""The mean over a named span of the text, which each prompt's `spans` gives."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from probes.poolings.base import Channels, Pooling, Running
from triggerlens import UserError


class Span(Pooling):
    """The mean of the scores of a span's tokens; only these are handed to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.read = f"span:{name}"

    @classmethod
    def named(cls, argument: str) -> Span:
        return cls(argument)

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return scores[..., 0].mean(0)

    def running(self) -> Running:
        raise UserError(
            f"a probe at span:{self.name} cannot watch: where the span lies is known only when the text is whole; "
            "train one with --position mean, max, first:N or a learned pooling"
        )
