"""How well an autoencoder gives back activations, with the rows that are far longer than the others and without them.

1. Rows are streamed. Of each one its norm is kept, and of the long ones (over half of what makes a row far) everything.
2. At the end a row is far where its norm is over 8 times the median one (`triggerlens.FAR`): attention sinks, mostly.
3. Every measure is given over all rows, and over those that are not far, by taking what the far ones add out of the sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.core import SparseAutoencoder
from triggerlens import FAR, UserError, far_norm

_ROWS = 4096
_LONG = 0.5
"""Rows over this share of the norm that makes one far, by the first rows' median, are kept whole until the median is known."""


@dataclass(frozen=True)
class FarRows:
    """Rows over 8 times the median norm, and how much of the sums they make."""

    rows: int
    """How many there are."""
    norm_above: float | None
    """Eight times the median norm; None where half of the rows are zero."""
    variance_share: float
    """Of the summed squared distance from the mean, which `fvu` is a fraction of."""
    norm_share: float
    """Of the summed norms, by which activations are scaled for training."""


@dataclass(frozen=True)
class Fidelity:
    """The measures over some of the rows."""

    rows: int
    """How many they are."""
    l0: float
    """Mean number of latents that are not 0."""
    fvu: float
    """Fraction of the variance unexplained: squared error over squared distance from the mean, summed over the rows."""
    cosine: float
    """Mean cosine of a row with its reconstruction, in which every row counts alike."""


@dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder does with activations."""

    rows: int
    """Activations that were looked at."""
    l0: float
    """Mean number of latents that are not 0."""
    fvu: float
    """Fraction of the variance unexplained: squared error over squared distance from the mean, summed over all rows."""
    never_fired: float
    """Share of latents that are 0 on all rows; some of them may only be rare."""
    cosine: float
    """Mean cosine of a row with its reconstruction, in which every row counts alike."""
    far: FarRows
    """Rows far from all others, which may decide the sums alone."""
    without_far: Fidelity
    """The same over the rows that are not far."""


@torch.no_grad()
def evaluate_reconstruction(sae: SparseAutoencoder, blocks: Iterable[Tensor]) -> Reconstruction:
    """Measure on streamed blocks of rows, [row d_in].

    Raises:
        UserError: there is no row, or all are the same.
    """
    every, long = _Sums.none(sae.d_in), _Long()
    norms: list[Tensor] = []
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    origin = sae.b_dec.detach().double().cpu()  # near the mean, so that sums of squares lose no digits
    for block in blocks:
        for rows in block.split(_ROWS):
            x = rows.to(sae.W_dec.device)
            latents = sae.encode(x)
            fired |= (latents > 0).any(0).cpu()
            table = _table(x, sae.decode(latents), latents)
            norms.append(table[:, 0])
            every.add(table, rows.double().cpu() - origin)
            long.keep(table, rows.double().cpu() - origin)
    if not every.rows:
        raise UserError("no activation to evaluate on")
    lengths = torch.cat(norms)
    limit = far_norm(lengths)
    far = long.over(limit, sae.d_in)
    rest, whole = every.less(far), every.fidelity()
    return Reconstruction(
        rows=whole.rows,
        l0=whole.l0,
        fvu=whole.fvu,
        never_fired=float((~fired).float().mean()),
        cosine=whole.cosine,
        far=FarRows(
            far.rows,
            limit if limit < float("inf") else None,
            far.distance_from(every.total / every.rows) / every.variance if far.rows else 0.0,
            float(lengths[lengths > limit].sum() / lengths.sum()) if far.rows else 0.0,
        ),
        without_far=rest.fidelity() if far.rows else whole,
    )


def _table(x: Tensor, given: Tensor, latents: Tensor) -> Float[Tensor, "row 4"]:
    """Of each row: norm, squared error, latents alive, cosine with its reconstruction (0 of a row that is zero)."""
    x, given = x.double(), given.double()
    norms = x.norm(dim=1)
    cosines = torch.nn.functional.cosine_similarity(x, given, dim=1, eps=1e-12)
    return torch.stack([norms, (x - given).square().sum(1), (latents > 0).sum(1).double(), cosines], dim=1).cpu()


@dataclass
class _Sums:
    """Sums over rows; those of some of the rows can be taken out again."""

    rows: int
    table: Float[Tensor, "4"]
    total: Float[Tensor, "d_in"]
    """Of the rows, from the decoder's bias on."""
    squares: float
    """Of the same, squared."""

    @classmethod
    def none(cls, d_in: int) -> _Sums:
        return cls(0, torch.zeros(4, dtype=torch.float64), torch.zeros(d_in, dtype=torch.float64), 0.0)

    def add(self, table: Float[Tensor, "row 4"], centred: Float[Tensor, "row d_in"]) -> None:
        self.rows += len(table)
        self.table, self.total = self.table + table.sum(0), self.total + centred.sum(0)
        self.squares += float(centred.square().sum())

    def less(self, other: _Sums) -> _Sums:
        return _Sums(
            self.rows - other.rows, self.table - other.table, self.total - other.total, self.squares - other.squares
        )

    @property
    def variance(self) -> float:
        """Summed squared distance from the rows' own mean."""
        return self.squares - float(self.total.square().sum()) / self.rows

    def distance_from(self, mean: Float[Tensor, "d_in"]) -> float:
        """Summed squared distance from a point."""
        return self.squares - 2 * float(self.total @ mean) + self.rows * float(mean.square().sum())

    def fidelity(self) -> Fidelity:
        _, error, alive, cosine = self.table.tolist()
        variance = self.variance
        if not variance > 0:
            raise UserError(
                "all activations are the same, so there is no variance to explain; check the site and the texts"
            )
        return Fidelity(self.rows, alive / self.rows, error / variance, cosine / self.rows)


@dataclass
class _Long:
    """Rows that may turn out to be far."""

    tables: list[Tensor] = field(default_factory=list)
    centred: list[Tensor] = field(default_factory=list)
    least: float | None = None
    """The norm from which a row is kept, set by the first rows."""

    def keep(self, table: Float[Tensor, "row 4"], centred: Float[Tensor, "row d_in"]) -> None:
        if self.least is None:
            self.least = _LONG * far_norm(table[:, 0])
        chosen = table[:, 0] > self.least
        if chosen.any():
            self.tables.append(table[chosen])
            self.centred.append(centred[chosen])

    def over(self, limit: float, d_in: int) -> _Sums:
        """Sums over the rows over a norm."""
        sums = _Sums.none(d_in)
        for table, centred in zip(self.tables, self.centred, strict=True):
            chosen = table[:, 0] > limit
            sums.add(table[chosen], centred[chosen])
        return sums


def far_words(measured: Reconstruction) -> str:
    """What the far rows make of the measures, as a clause; empty where there are none."""
    far, rest = measured.far, measured.without_far
    if not far.rows:
        return ""
    return (
        f"{far.rows:,} of the {measured.rows:,} tokens are over {FAR:g} times the median norm (attention sinks, mostly) and make "
        f"{far.variance_share:.1%} of that variance; without them it explains {1 - rest.fvu:.1%} with {rest.l0:.1f} latents a token"
    )
