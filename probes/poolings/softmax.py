"""Attention pooling: a softmax over tokens of one direction weighs what another direction says of them.

One head of the attention probe (McKenzie et al., "Detecting high-stakes interactions with activation probes", arXiv 2506.10805;
Shabalin and Belrose, "Attention probes", EleutherAI 2025; Kramár et al., arXiv 2601.11516). Fitted jointly, from the optimum of the
mean over tokens with a query of zero, which weighs all tokens alike.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.poolings.arrays import Array, double, library_of
from probes.poolings.base import Channels, Heads, Learned, Pooling, Running, TokenScores
from probes.poolings.learn import Pooled, Problem, sum_by_text, weights_by_text
from probes.poolings.rows import Piece, TokenRows

VALUE, QUERY = 0, 1


class Softmax(Pooling):
    """sum_j softmax_j(query . x_j) (value . x_j + b): channel 0 is the value, channel 1 the query."""

    channels = 2

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return (scores[..., QUERY].softmax(0) * scores[..., VALUE]).sum(0)

    def running(self) -> Running:
        return RunningSoftmax()

    def fit(
        self, rows: TokenRows, labels: Float[Tensor, "problem text"], C: float, start: Heads | None = None
    ) -> Learned:
        problem = Problem(rows, labels, C, smooth_attention)
        return problem.solve(problem.start(self.channels, start), problem.intercept(), (0.0, 1.0))

    def alone(
        self, directions: Float[Tensor, "probe d_model"], own: Float[Tensor, "channel d_model"]
    ) -> Float[Tensor, "probe channel d_model"]:
        return torch.stack([directions, own[QUERY].expand_as(directions)], dim=1)


def smooth_attention(scores: Float[Tensor, "problem token channel"], piece: Piece, sharpness: float) -> Pooled:
    """The pooling itself where the sharpness is 1; the mean over tokens where it is 0."""
    weights, _ = weights_by_text(sharpness * scores[..., QUERY:], piece)
    values = scores[..., :QUERY]
    pooled = sum_by_text(weights * values, piece)
    by_query = sharpness * weights * (values - pooled[:, piece.text])
    return pooled[..., 0], torch.cat([weights, by_query], dim=2)


class RunningSoftmax:
    """Numerator and denominator so far, both divided by exp of the highest query so far, so that neither overflows."""

    def __init__(self) -> None:
        self.highest: Array | None = None
        self.weighted: Array = 0.0
        self.weight: Array = 0.0

    def update(self, scores: TokenScores) -> Array:
        scores = double(scores)
        value, query = scores[..., VALUE], scores[..., QUERY]
        if self.highest is None:
            self.highest, self.weighted, self.weight = query, value, library_of(query).ones_like(query)
            return value
        library = library_of(query)
        highest = library.maximum(self.highest, query)
        kept, new = library.exp(self.highest - highest), library.exp(query - highest)
        self.weighted = self.weighted * kept + new * value
        self.weight = self.weight * kept + new
        self.highest = highest
        return self.weighted / self.weight
