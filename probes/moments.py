"""Class moments of activations, streamed, so that a million prompts need no more memory than a thousand.

Batches are merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979): every accumulator is kept about its own mean and moved to the common mean when two are merged, which
loses no digits when means are large beside the spread. All sums are in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Part:
    """Central moments of some rows of one class."""

    count: int
    mean: Float[Tensor, "layer d_model"]
    scatter: Float[Tensor, "layer d_model d_model"] | None
    """Sum of (x - mean)(x - mean)^T."""
    third: Float[Tensor, "layer d_model"] | None
    """Sum of |x - mean|^2 (x - mean)."""
    fourth: Float[Tensor, "layer"] | None
    """Sum of |x - mean|^4: what the Ledoit-Wolf shrinkage needs beyond the scatter."""


class Moments:
    """Count, mean and, where asked, scatter of the two classes, at every layer.

    Args:
        scatter: also keep the d_model x d_model scatter of each class (for LDA): 16 d_model^2 bytes a layer.
    """

    def __init__(self, scatter: bool = False) -> None:
        self.scatter = scatter
        self._parts: list[_Part | None] = [None, None]

    def update(self, x: Float[Tensor, "row layer d_model"], y: Shaped[Tensor, "row"]) -> Moments:
        """Add a batch; `y` is 0/1 or false/true. Returns self."""
        y = y.to(device=x.device, dtype=torch.bool)
        for label, rows in enumerate((~y, y)):
            if rows.any():
                self._parts[label] = _merge(self._parts[label], _summarise(x[rows], self.scatter))
        return self

    def merge(self, other: Moments) -> Moments:
        """Add what another rank has seen. Returns self.

        Raises:
            ValueError: one keeps the scatter and the other does not.
        """
        if self.scatter != other.scatter:
            raise ValueError("cannot merge moments with scatter and moments without")
        self._parts = [_merge(mine, theirs) for mine, theirs in zip(self._parts, other._parts, strict=True)]
        return self

    @property
    def count(self) -> tuple[int, int]:
        """Rows seen of the negative and of the positive class."""
        return tuple(part.count if part else 0 for part in self._parts)  # type: ignore[return-value]

    @property
    def mean(self) -> Float[Tensor, "label layer d_model"]:
        """Mean of each class."""
        return torch.stack([part.mean for part in self._both()])

    @property
    def within(self) -> Float[Tensor, "layer d_model d_model"]:
        """Pooled within-class covariance (divided by the number of rows, as scikit-learn's LDA does)."""
        return sum(self._with_scatter()) / sum(self.count)  # type: ignore[return-value]

    @property
    def fourth(self) -> Float[Tensor, "layer"]:
        """Sum over rows of |x - mean of its class|^4."""
        self._with_scatter()
        return sum(part.fourth for part in self._both())  # type: ignore[misc, return-value]

    def _both(self) -> list[_Part]:
        parts = [part for part in self._parts if part is not None]
        if len(parts) < 2:
            raise ValueError("both classes must be seen before their moments can be read")
        return parts

    def _with_scatter(self) -> list[Tensor]:
        scatters = [part.scatter for part in self._both()]
        if not self.scatter:
            raise ValueError("the scatter was not kept: use Moments(scatter=True)")
        return scatters  # type: ignore[return-value]


def _summarise(x: Float[Tensor, "row layer d_model"], scatter: bool) -> _Part:
    """Central moments of one batch."""
    x = x.double()
    mean = x.mean(0)
    if not scatter:
        return _Part(len(x), mean, None, None, None)
    centred = (x - mean).transpose(0, 1)
    square = centred.square().sum(-1)
    third = torch.einsum("ln,lnd->ld", square, centred)
    return _Part(len(x), mean, centred.mT @ centred, third, square.square().sum(-1))


def _merge(a: _Part | None, b: _Part | None) -> _Part | None:
    """Central moments of the union of two disjoint sets of rows."""
    if a is None or b is None:
        return a or b
    count = a.count + b.count
    mean = a.mean + (b.mean - a.mean) * (b.count / count)
    if a.scatter is None or b.scatter is None:
        return _Part(count, mean, None, None, None)
    a, b = _move(a, mean), _move(b, mean)
    return _Part(count, mean, a.scatter + b.scatter, a.third + b.third, a.fourth + b.fourth)  # type: ignore[operator]


def _move(part: _Part, mean: Float[Tensor, "layer d_model"]) -> _Part:
    """The same rows with their moments about another point, by expanding |z - m|^2 with sum(z) = 0."""
    assert part.scatter is not None
    assert part.third is not None
    assert part.fourth is not None
    m = mean - part.mean
    size, trace = m.square().sum(-1), part.scatter.diagonal(dim1=-2, dim2=-1).sum(-1)
    carried = (part.scatter @ m[..., None])[..., 0]
    fourth = part.fourth + 4 * (m * carried).sum(-1) - 4 * (m * part.third).sum(-1)
    fourth = fourth + 2 * size * trace + part.count * size.square()
    third = part.third - trace[:, None] * m - 2 * carried - part.count * size[:, None] * m
    scatter = part.scatter + part.count * m[:, :, None] * m[:, None, :]
    return _Part(part.count, mean, scatter, third, fourth)
