"""The highest mean over a window of tokens (McKenzie et al., arXiv 2506.10805; with a window of 10, Kramár et al., arXiv 2601.11516).

Between the mean, which a long text dilutes, and the highest token, which a single odd token decides.
"""

from __future__ import annotations

from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

from probes.poolings import ROLLING_WINDOW
from probes.poolings.base import Channels, Heads, Learned, Pooling, Running
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
    """The scores of the last `window` tokens, and the highest of their means so far."""

    def __init__(self, window: int) -> None:
        self.kept: deque[Tensor] = deque(maxlen=window)
        self.highest: Tensor | None = None

    def update(self, scores: Float[Tensor, "*row channel"]) -> Float[Tensor, "*row"]:
        self.kept.append(scores[..., 0].double())
        mean = torch.stack(list(self.kept)).mean(0)
        self.highest = mean if self.highest is None else self.highest.maximum(mean)
        return self.highest


def rolling_means(x: Float[Tensor, "token *rest"], window: int) -> Float[Tensor, "token *rest"]:
    """The mean of each token and the `window` - 1 before it, or as many as there are."""
    total = x.new_zeros(len(x) + 1, *x.shape[1:], dtype=torch.float64)
    torch.cumsum(x.double(), 0, out=total[1:])
    end = torch.arange(1, len(x) + 1, device=x.device)
    start = (end - window).clamp(min=0)
    count = (end - start).reshape(-1, *[1] * (x.ndim - 1))
    return ((total[end] - total[start]) / count).to(x.dtype)
