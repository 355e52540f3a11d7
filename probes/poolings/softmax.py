"""Attention pooling: a softmax over tokens of one direction weighs what another direction says of them.

One head of the attention probe (McKenzie et al., "Detecting high-stakes interactions with activation probes", arXiv 2506.10805;
Shabalin and Belrose, "Attention probes", EleutherAI 2025; Kramár et al., arXiv 2601.11516).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.poolings.base import Channels, Pooling, Running

VALUE, QUERY = 0, 1


class Softmax(Pooling):
    """sum_j softmax_j(query . x_j) (value . x_j + b): channel 0 is the value, channel 1 the query."""

    channels = 2

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return (scores[..., QUERY].softmax(0) * scores[..., VALUE]).sum(0)

    def running(self) -> Running:
        return RunningSoftmax()


class RunningSoftmax:
    """Numerator and denominator so far, both divided by exp of the highest query so far, so that neither overflows."""

    def __init__(self) -> None:
        self.highest: Tensor | None = None
        self.weighted = self.weight = torch.zeros(())

    def update(self, scores: Float[Tensor, "*row channel"]) -> Float[Tensor, "*row"]:
        value, query = scores[..., VALUE].double(), scores[..., QUERY].double()
        highest = query if self.highest is None else self.highest.maximum(query)
        kept = torch.zeros_like(query) if self.highest is None else (self.highest - highest).exp()
        new = (query - highest).exp()
        self.weighted = self.weighted.to(kept) * kept + new * value
        self.weight = self.weight.to(kept) * kept + new
        self.highest = highest
        return self.weighted / self.weight
