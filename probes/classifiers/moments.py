"""Class moments of activations, streamed, so that a million prompts need no more memory than a thousand.

Batches are merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979): every accumulator is kept about its own mean and moved to the common mean when two are merged, which
loses no digits when means are large beside the spread. All sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from probes.classifiers.base import FitRows


@dataclass(slots=True)
class _Part:
    """Central moments of the rows of one class. The scatter is updated in place: it is by far the largest."""

    count: int
    mean: Float[Tensor, "layer d_model"]
    scatter: Float[Tensor, "layer d_model d_model"] | None = None
    """Sum of (x - mean)(x - mean)^T."""
    third: Float[Tensor, "layer d_model"] | None = None
    """Sum of |x - mean|^2 (x - mean)."""
    fourth: Float[Tensor, "layer"] | None = None
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
            if bool(rows.any()):
                self._parts[label] = self._add(self._parts[label], x[rows].double())
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

    def _add(self, part: _Part | None, x: Float[Tensor, "row layer d_model"]) -> _Part:
        """Add the rows of a batch to a class."""
        mean = x.mean(0)
        if not self.scatter:
            return _merge_means(part, _Part(len(x), mean))
        centred = (x - mean).transpose(0, 1)
        if part is None:
            width = x.shape[2]
            part = _Part(
                0, mean, x.new_zeros(x.shape[1], width, width), torch.zeros_like(mean), torch.zeros_like(mean[:, 0])
            )
        square = centred.square().sum(-1)
        third, fourth = torch.einsum("ln,lnd->ld", square, centred), square.square().sum(-1)
        _absorb(
            part, len(x), mean, third, fourth, square.sum(-1), lambda m: (centred.mT @ (centred @ m[..., None]))[..., 0]
        )
        _scatter(part).baddbmm_(centred.mT, centred)
        return part

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


class ShuffledMeans:
    """Class means under many labellings at once: one matrix product a batch, about the first batch's mean."""

    def __init__(self, shuffles: Bool[Tensor, "shuffle prompt"]) -> None:
        self.shuffles = shuffles.double()
        self.sums: Tensor | None = None

    def update(self, x: Float[Tensor, "row layer d_model"], index: Int[Tensor, "row"]) -> None:
        """Add a batch whose rows have these places among the labels."""
        flat = x.double().flatten(1)
        if self.sums is None:
            self.pivot, self.shape = flat.mean(0), x.shape[1:]
            self.sums = flat.new_zeros(2, len(self.shuffles), flat.shape[1])
        positive = self.shuffles[:, index].to(x.device)
        flat = flat - self.pivot
        self.sums += torch.stack([(1 - positive) @ flat, positive @ flat])

    def means(self, layer: int) -> Float[Tensor, "2 shuffle d_model"]:
        """Mean of the negatives and of the positives of each labelling at one layer."""
        assert self.sums is not None
        count = torch.stack([(1 - self.shuffles).sum(1), self.shuffles.sum(1)])
        means = self.sums.cpu() / count[..., None] + self.pivot.cpu()
        return means.unflatten(-1, self.shape)[:, :, layer]


def stream_moments(rows: FitRows, scatter: bool = False) -> tuple[Moments, ShuffledMeans]:
    """Moments of the rows under their labels, and class means under each shuffle; each row is seen once and not kept."""
    labels = torch.from_numpy(rows.labels)
    moments, nulls = Moments(scatter=scatter), ShuffledMeans(torch.from_numpy(rows.shuffles))
    for index, x in rows.stream():
        x = x if rows.device is None else x.to(rows.device)
        moments.update(x, labels[index])
        nulls.update(x, index)
    return moments, nulls


def _merge(a: _Part | None, b: _Part | None) -> _Part | None:
    """Moments of the union of two disjoint sets of rows; `a` is changed, `b` is not."""
    if b is None:
        return a
    if b.scatter is None:
        return _merge_means(a, b)
    if a is None:
        return _Part(b.count, b.mean, b.scatter.clone(), b.third, b.fourth)
    trace = b.scatter.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert b.third is not None
    assert b.fourth is not None
    _absorb(a, b.count, b.mean, b.third, b.fourth, trace, lambda m: (_scatter(b) @ m[..., None])[..., 0])
    _scatter(a).add_(b.scatter)
    return a


def _merge_means(a: _Part | None, b: _Part) -> _Part:
    if a is None:
        return b
    count = a.count + b.count
    return _Part(count, a.mean + (b.mean - a.mean) * (b.count / count))


def _absorb(
    part: _Part,
    count: int,
    mean: Float[Tensor, "layer d_model"],
    third: Float[Tensor, "layer d_model"],
    fourth: Float[Tensor, "layer"],
    trace: Float[Tensor, "layer"],
    carry: Callable[[Tensor], Tensor],
) -> None:
    """Add other rows, given by their moments, to `part` in place; all but their own scatter, which the caller adds.

    `carry(m)` is their scatter times m, which needs no d_model x d_model matrix where the rows are at hand.
    """
    assert part.third is not None
    assert part.fourth is not None
    scatter, total, gap = _scatter(part), part.count + count, mean - part.mean
    common = part.mean + gap * (count / total)
    own_trace = scatter.diagonal(dim1=-2, dim2=-1).sum(-1)
    m = common - part.mean
    mine = _shift(part.count, m, (scatter @ m[..., None])[..., 0], own_trace, part.third, part.fourth)
    m = common - mean
    theirs = _shift(count, m, carry(m), trace, third, fourth)
    step = (gap * (part.count * count / total) ** 0.5)[..., None]
    scatter.baddbmm_(step, step.mT)
    part.count, part.mean = total, common
    part.third, part.fourth = mine[0] + theirs[0], mine[1] + theirs[1]


def _shift(
    count: int,
    m: Float[Tensor, "layer d_model"],
    carried: Float[Tensor, "layer d_model"],
    trace: Float[Tensor, "layer"],
    third: Float[Tensor, "layer d_model"],
    fourth: Float[Tensor, "layer"],
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer"]]:
    """Third and fourth moments about a point at `m` from the mean, by expanding |z - m|^2 with sum(z) = 0."""
    size = m.square().sum(-1)
    fourth = fourth + 4 * (m * carried).sum(-1) - 4 * (m * third).sum(-1)
    fourth = fourth + 2 * size * trace + count * size.square()
    return third - trace[:, None] * m - 2 * carried - count * size[:, None] * m, fourth


def _scatter(part: _Part) -> Float[Tensor, "layer d_model d_model"]:
    assert part.scatter is not None
    return part.scatter
