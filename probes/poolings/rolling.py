"""The highest mean over a window of tokens (McKenzie et al., arXiv 2506.10805; with a window of 10, Kramár et al., arXiv 2601.11516).

Between the mean, which a long text dilutes, and the highest token, which a single odd token decides.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.poolings import ROLLING_WINDOW
from probes.poolings.arrays import Array, double, library_of
from probes.poolings.base import Channels, Heads, Learned, Pooling, Running, TokenScores
from probes.poolings.learn import Problem
from probes.poolings.multimax import SHARPNESS, smooth_maximum
from probes.poolings.rows import TokenRows


class Rolling(Pooling):
    """max_t mean(scores of the `window` tokens that end at t); at the beginning, of the fewer tokens that there are."""

    def __init__(self, window: int = ROLLING_WINDOW) -> None:
        self.window = window

    @classmethod
    def named(cls, argument: str) -> Rolling:
        return cls(int(argument)) if argument else cls()

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return rolling_means(scores[..., 0], self.window).amax(0)

    def running(self) -> Running:
        return RunningRolling(self.window)

    def prepare(self, rows: TokenRows) -> None:
        for piece in rows.pieces():
            for layer in piece.x:
                for text in layer.split(piece.lengths.tolist()):
                    text.copy_(rolling_means(text, self.window))

    def fit(
        self, rows: TokenRows, labels: Float[Tensor, "problem text"], C: float, start: Heads | None = None
    ) -> Learned:
        problem = Problem(rows, labels, C, smooth_maximum)
        return problem.solve(problem.start(1, start), problem.intercept(), SHARPNESS)


class RunningRolling:
    """The scores of the last `window` tokens, in a ring, and the highest of their means so far."""

    def __init__(self, window: int) -> None:
        self.window, self.seen = window, 0
        self.kept: Any = None
        self.highest: Array | None = None

    def update(self, scores: TokenScores) -> Array:
        score = double(scores)[..., 0]
        library = library_of(score)
        if self.kept is None or self.highest is None:
            self.kept = library.stack([score] * self.window)
            self.seen, self.highest = 1, score
            return score
        self.kept[self.seen % self.window] = score
        self.seen += 1
        count = min(self.seen, self.window)
        self.highest = library.maximum(self.highest, self.kept[:count].sum(0) / count)
        return self.highest


def rolling_means(x: Float[Tensor, "token *rest"], window: int) -> Float[Tensor, "token *rest"]:
    """The mean of each token and the `window` - 1 before it, or as many as there are."""
    total = x.new_zeros(len(x) + 1, *x.shape[1:], dtype=torch.float64)
    torch.cumsum(x.double(), 0, out=total[1:])
    end = torch.arange(1, len(x) + 1, device=x.device)
    start = (end - window).clamp(min=0)
    count = (end - start).reshape(-1, *[1] * (x.ndim - 1))
    return ((total[end] - total[start]) / count).to(x.dtype)
