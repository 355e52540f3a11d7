"""MultiMax: several directions, each read where it is highest, and added up (Kramár et al., arXiv 2601.11516, section 3).

What is said at one token is not diluted by the tokens around it, however many they are; and two heads can ask for two
things that stand at different places. Heads are fitted one after the other, each to what the earlier ones leave, and then together.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.poolings.base import Channels, Heads, Learned, Pooling, Running
from probes.poolings.highest import RunningHighest
from probes.poolings.learn import Pooled, Problem, sum_by_text, weights_by_text
from probes.poolings.rows import Piece, TokenRows

HEADS = 4
SHARPNESS = (0.0, 0.5, 2.0, 8.0, 32.0)
"""Stages of a fit: from the mean over tokens towards their maximum."""


class MultiMax(Pooling):
    """sum_h max_j (head_h . x_j) + b: each channel is a head; channel 0 holds b too."""

    channels = HEADS

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return scores.amax(0).sum(-1)

    def running(self) -> Running:
        return RunningHighest()

    def fit(
        self, rows: TokenRows, labels: Float[Tensor, "problem text"], C: float, start: Heads | None = None
    ) -> Learned:
        problem = Problem(rows, labels, C, smooth_maximum)
        new = problem.start(1, start)
        found = problem.solve(new, problem.intercept(), SHARPNESS)
        for _ in range(1, self.channels):
            offset = problem.values(found.heads, SHARPNESS[-1])
            added = problem.solve(new, found.intercept, SHARPNESS, offset)
            together = torch.cat([found.heads, added.heads], dim=1)
            found = problem.solve(together, added.intercept, SHARPNESS[-1:])
        return found

    def of_one_token(self, heads: Heads) -> Float[Tensor, "problem d_model"]:
        return heads.sum(1)


def smooth_maximum(scores: Float[Tensor, "problem token channel"], piece: Piece, sharpness: float) -> Pooled:
    """log-mean-exp over the tokens of each text, added up over channels; the mean where the sharpness is 0."""
    count = piece.lengths.to(scores.dtype)[None, :, None]
    if sharpness == 0:
        pooled = sum_by_text(scores, piece) / count
        return pooled.sum(2), (1 / count)[:, piece.text].expand_as(scores)
    weights, total = weights_by_text(sharpness * scores, piece)
    return ((total - count.log()) / sharpness).sum(2), weights
