"""Exact activation patching: what the metric becomes when some activations are replaced by another run's.

1. Activations of both runs are read at the sites in question; the pair's alignment says which stands for which.
2. Patches that change nothing are dropped: positions before the first difference (causal attention), positions without a
   counterpart, activations that are identical. A cell without any patch left has effect 0 and is not run.
3. The rest is run in chunks on packed rows (`patching.engine.sweep`), or, where the model does not fit, one cell at a time
   (`patching.engine.reference`). The two give the same numbers; a sample of the cells is run both ways each time, and where they
   differ by more than rounding the slow way is taken. Whatever was not run fast is said in the notes.

Denoising and noising as in Heimersheim and Nanda 2024, https://arxiv.org/abs/2404.15255.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from hooked import HookedModel
from patching.engine.cells import Cell
from patching.engine.packed import DoesNotFit, PackedModel
from patching.engine.reference import patched_value
from patching.engine.sweep import Job, Plan, Sweep, make_job, plan_job
from patching.engine.works import Works
from patching.options import Direction
from patching.pairs import PatchPair, Sides
from triggerlens import UserError

ONE_AT_A_TIME = "one at a time"
"""The engine that runs a whole forward pass for each cell."""


@dataclass(frozen=True)
class Audit:
    """Cells whose effect was computed a second time, in a surer way: one at a time where they ran together, exactly where estimated."""

    cells: int
    """How many were computed twice."""
    largest_difference: float
    """Of an effect; the unit is the whole distance between the two runs."""
    rank_correlation: float | None = None
    """Spearman's, of estimates with exact effects; None for exact patching, and where all effects are the same."""
    worst: str = ""
    """The cell of the largest difference, for estimates."""


@dataclass(frozen=True)
class ExactResult:
    """What patching found, in the order of the cells."""

    effects: tuple[Float[np.ndarray, "_"], ...]
    """One array for each pair: 0 as without a patch, 1 as in the source run. NaN: no position has a counterpart."""
    ran: int
    """Cells that were run."""
    skipped: int
    """Cells that were not, since both runs have the same activations there."""
    seconds: float
    """Time taken by the cells that were run."""
    engine: str
    """`packed`, `one at a time`, or, for estimates, `gradient`."""
    audit: Audit
    """By how much a second computation differs."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the numbers."""

    @property
    def cells_per_second(self) -> float | None:
        """None where no cell was run."""
        return self.ran / self.seconds if self.ran else None


def exact_effects(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    cells: Sequence[Sequence[Cell]],
    direction: Direction = "denoising",
    *,
    fast: bool = True,
    audited: int = 4,
    row_budget: int | None = None,
    seed: int = 0,
) -> ExactResult:
    """The effect of each cell on each pair.

    Args:
        model: the model.
        pairs: the pairs; their metrics may differ.
        cells: for each pair, the cells to patch.
        direction: which run is patched.
        fast: run cells together on packed rows, where the model fits.
        audited: how many cells are run one at a time as well, and compared.
        row_budget: rows in one chunk; a default for the device where None.
        seed: of the choice of audited cells.

    Raises:
        UserError: a site that the model lacks, runs that cannot be aligned, a flat metric, or a NaN.
    """
    works = Works(model, [pair.sides(direction) for pair in pairs], cells)
    todo = works.live_cells()
    ran = _run_all(model, works, todo, fast=fast, audited=audited, row_budget=row_budget, seed=seed)
    effects = _assemble(works.sides, cells, todo, ran.values)
    total = sum(map(len, cells))
    return ExactResult(effects, len(todo), total - len(todo), ran.seconds, ran.engine, ran.audit, ran.notes)


@dataclass(frozen=True)
class _Ran:
    """Step 3's outcome: the metric of each cell, and how it was computed."""

    values: list[float]
    engine: str
    seconds: float
    audit: Audit
    notes: tuple[str, ...]


def _run_all(
    model: HookedModel,
    works: Works,
    todo: Sequence[tuple[int, int, Cell]],
    *,
    fast: bool,
    audited: int,
    row_budget: int | None,
    seed: int,
) -> _Ran:
    """Step 3: fast where the model fits and the audit agrees, else one at a time."""
    audit, reason = Audit(0, 0.0), ""
    if fast and todo:
        start = time.perf_counter()
        try:
            values = _packed_values(model, works, todo, row_budget)
        except DoesNotFit as problem:
            reason = f"cells were run one at a time, which is slow: {problem}"
        else:
            seconds = time.perf_counter() - start
            audit, agrees = _audit(model, works, todo, values, audited, seed)
            if agrees:
                return _Ran(values, "packed", seconds, audit, ())
            reason = f"cells were run one at a time, which is slow: run together they differed by {audit.largest_difference:.2g}"
    start = time.perf_counter()
    values = _slow_values(model, works, todo)
    return _Ran(values, ONE_AT_A_TIME, time.perf_counter() - start, audit, (reason,) if reason else ())


@torch.no_grad()
def _packed_values(
    model: HookedModel, works: Works, todo: Sequence[tuple[int, int, Cell]], budget: int | None
) -> list[float]:
    """Step 3, fast.

    Raises:
        DoesNotFit: the model cannot be run on packed rows.
    """
    packed = PackedModel(model)
    works.check_packed(todo)
    first = packed.record(works.sides[0].patched)
    packed.check(works.sides[0].patched, first)
    n_layers = model.info.n_layers
    plans = [plan_job(place, which, cell, works.sides[which], n_layers) for place, (which, _, cell) in enumerate(todo)]

    def make(plan: Plan) -> Job:
        return make_job(plan, works[plan.run].written(plan.cell), n_layers)

    ran = Sweep(packed, works.sides, make, {0: first}, budget).values([plan for plan in plans if plan is not None])
    return [ran.get(place, works.sides[which].patched_value) for place, (which, _, _) in enumerate(todo)]


def _slow_values(model: HookedModel, works: Works, todo: Sequence[tuple[int, int, Cell]]) -> list[float]:
    """Step 3, one at a time."""
    cells = tqdm(todo, unit="cell", desc="patching, one at a time", disable=None)
    return [patched_value(model, works.sides[which], cell, works[which].source) for which, _, cell in cells]


def _audit(
    model: HookedModel,
    works: Works,
    todo: Sequence[tuple[int, int, Cell]],
    values: Sequence[float],
    count: int,
    seed: int,
) -> tuple[Audit, bool]:
    """Run a sample of the cells one at a time, and compare; also whether they differ by no more than rounding."""
    sample = np.random.default_rng(seed).permutation(len(todo))[:count]
    worst, agrees = 0.0, True
    for index in sample.tolist():
        which, _, cell = todo[index]
        sides = works.sides[which]
        both = torch.tensor(
            [values[index], patched_value(model, sides, cell, works[which].source)], dtype=torch.float64
        )
        ours, theirs = sides.effects(both).tolist()
        worst = max(worst, abs(ours - theirs))
        agrees = agrees and abs(ours - theirs) <= _tolerance(model, sides.source_value - sides.patched_value)
    return Audit(len(sample), worst), agrees


def _tolerance(model: HookedModel, gap: float) -> float:
    """How far an effect may be off by rounding: that of a logit weighs more, the less the metric of both runs is apart.

    Sixteen bits excuse no more than a twentieth of an effect and a quarter of a logit.
    """
    eps = torch.finfo(model.dtype).eps
    return min(0.25, min(0.05, 1e4 * eps) + min(0.25, 300 * eps) / abs(gap))


def _assemble(
    sides: Sequence[Sides],
    cells: Sequence[Sequence[Cell]],
    todo: Sequence[tuple[int, int, Cell]],
    values: Sequence[float],
) -> tuple[Float[np.ndarray, "_"], ...]:
    """Effects of all cells: those run, 0 where a patch changes nothing, NaN where no position has a counterpart."""
    raw = [np.full(len(own), side.patched_value) for side, own in zip(sides, cells, strict=True)]
    for (which, place, cell), value in zip(todo, values, strict=True):
        if not np.isfinite(value):
            raise UserError(
                f"the metric is {value} where {cell[0].site} is patched; the model may need --dtype float32"
            )
        raw[which][place] = value
    effects = []
    for side, own, row in zip(sides, cells, raw, strict=True):
        row_effects = side.effects(torch.from_numpy(row)).numpy()
        counterparts = side.alignment.counterparts
        for place, cell in enumerate(own):
            if all(counterparts[q] is None for patch in cell for q in patch.positions):
                row_effects[place] = np.nan
        effects.append(row_effects)
    return tuple(effects)
