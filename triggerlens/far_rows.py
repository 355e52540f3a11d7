"""Rows that are far longer than the others, of which a handful may make most of what is measured.

In many models a few tokens (the first one, a line break, a full stop) are attention sinks: their residual stream is tens or hundreds of
times as long as that of any other token, and says nothing about the text. Sums of squares are then theirs: a variance, a scale,
a share of it that is explained. Whatever rests on such sums is given without these rows too.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

FAR = 8.0
"""A row is far where its norm is over so many times the median one."""


def far_norm(norms: Float[Tensor, "row"]) -> float:
    """The norm above which a row is far; infinity where there is no row, or where half of them are zero."""
    median = float(norms.median()) if len(norms) else 0.0
    return FAR * median if median > 0 else float("inf")


def is_far(x: Float[Tensor, "row d"]) -> Bool[Tensor, "row"]:
    """Which rows are far."""
    norms = x.double().norm(dim=1)
    return norms > far_norm(norms)


def variance_share(x: Float[Tensor, "row d"], chosen: Bool[Tensor, "row"]) -> float:
    """Share of the rows' summed squared distance from their mean that is the chosen rows'; 0 where nothing varies."""
    squares = (x.double() - x.double().mean(0)).square().sum(1)
    total = float(squares.sum())
    return float(squares[chosen].sum()) / total if total else 0.0
