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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from hooked import HookedModel, parse_site
from patching.engine.cells import Cell
from patching.engine.packed import DoesNotFit, PackedModel
from patching.engine.reference import patched_value, read_sites, replacements
from patching.engine.sweep import Sweep, make_job
from patching.options import Direction
from patching.pairs import PatchPair, Sides
from triggerlens import UserError


ONE_AT_A_TIME = "one at a time"
"""The engine that runs a whole forward pass for each cell."""


@dataclass(frozen=True)
class Audit:
    """Cells whose effect was computed a second time, in a surer way: one at a time where they ran together, exactly where estimated."""

    cells: int
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
    notes: tuple[str, ...] = ()

    @property
    def cells_per_second(self) -> float | None:
        """None where no cell was run."""
        return self.ran / self.seconds if self.ran else None


@dataclass(frozen=True)
class _Work:
    """One pair in one direction, with the activations of both runs."""

    sides: Sides
    patched: Mapping[str, Float[Tensor, "position _"]]
    source: Mapping[str, Float[Tensor, "source_position _"]]
    replacement: Mapping[str, Float[Tensor, "position _"]]
    """What each position of the patched run is replaced by."""
    live: Mapping[str, Bool[np.ndarray, "position"]]
    """Positions where a patch at the site changes anything."""


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
    works = [_work(model, pair, own, direction) for pair, own in zip(pairs, cells, strict=True)]
    todo = _live_cells(works, cells)
    ran = _run_all(model, works, todo, fast=fast, audited=audited, row_budget=row_budget, seed=seed)
    effects = _assemble(works, cells, todo, ran.values)
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
    works: Sequence[_Work],
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


def _work(model: HookedModel, pair: PatchPair, cells: Sequence[Cell], direction: Direction) -> _Work:
    """Step 1, and which positions of each site are worth patching (step 2)."""
    sites = list(dict.fromkeys(patch.site for cell in cells for patch in cell))
    model.check_sites(sites)
    sides = pair.sides(direction)
    _check_positions(cells, len(sides.patched))
    patched, source = (read_sites(model, ids, sites) for ids in (sides.patched, sides.source))
    replacement = {site: replacements(sides, site, source[site]) for site in sites}
    live = {}
    for site in sites:
        changes = (patched[site] != replacement[site]).any(-1).cpu()
        changes[: sides.alignment.unchanged] = False
        live[site] = (changes & sides.alignment.mask).numpy()
    return _Work(sides, patched, source, replacement, live)


def _check_positions(cells: Sequence[Cell], length: int) -> None:
    for patch in (patch for cell in cells for patch in cell):
        outside = next(
            (position for position in (*patch.positions, *(patch.keys or ())) if not 0 <= position < length), None
        )
        if outside is not None:
            raise UserError(f"{patch.site}: no position {outside}; the patched run has {length} tokens")
        if patch.keys is not None and parse_site(patch.site).kind != "pattern":
            raise UserError(f"{patch.site}: only a pattern has keys")


def _live_cells(works: Sequence[_Work], cells: Sequence[Sequence[Cell]]) -> list[tuple[int, int, Cell]]:
    """(pair, place, what is left of the cell) of each cell that must be run."""
    live = []
    for which, (work, own) in enumerate(zip(works, cells, strict=True)):
        for place, cell in enumerate(own):
            left = tuple(replace(p, positions=tuple(q for q in p.positions if work.live[p.site][q])) for p in cell)
            left = tuple(patch for patch in left if patch.positions)
            if left:
                live.append((which, place, left))
    return live


@torch.no_grad()
def _packed_values(
    model: HookedModel, works: Sequence[_Work], todo: Sequence[tuple[int, int, Cell]], budget: int | None
) -> list[float]:
    """Step 3, fast.

    Raises:
        DoesNotFit: the model cannot be run on packed rows.
    """
    packed = PackedModel(model)
    runs = [packed.record(work.sides.patched) for work in works]
    packed.check(works[0].sides.patched, runs[0])
    values = [works[which].sides.patched_value for which, _, _ in todo]
    jobs = []
    for index, (which, _, cell) in enumerate(todo):
        job = make_job(index, which, cell, works[which].sides, _written(works[which], cell), model.info.n_layers)
        if job is not None:
            jobs.append(job)
    ran = Sweep(packed, runs, [work.sides for work in works], budget).values(jobs)
    return [ran.get(index, value) for index, value in enumerate(values)]


def _written(work: _Work, cell: Cell) -> Mapping[str, Float[Tensor, "position _"]]:
    """What a cell writes at whole positions. A pattern that is replaced in part keeps the rest of what the unpatched run had:
    so it is where nothing else is patched.

    Raises:
        DoesNotFit: something else is.
    """
    keys = cell[0].keys
    if all(patch.keys is None for patch in cell):
        return work.replacement
    if len(cell) > 1 or keys is None:
        raise DoesNotFit("parts of attention patterns are patched together with other things")
    site = cell[0].site
    row = work.patched[site].clone()
    row[:, list(keys)] = work.replacement[site][:, list(keys)]
    return {site: row}


def _slow_values(model: HookedModel, works: Sequence[_Work], todo: Sequence[tuple[int, int, Cell]]) -> list[float]:
    """Step 3, one at a time."""
    cells = tqdm(todo, unit="cell", desc="patching, one at a time", disable=None)
    return [patched_value(model, works[which].sides, cell, works[which].source) for which, _, cell in cells]


def _audit(
    model: HookedModel,
    works: Sequence[_Work],
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
        sides = works[which].sides
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
    works: Sequence[_Work],
    cells: Sequence[Sequence[Cell]],
    todo: Sequence[tuple[int, int, Cell]],
    values: Sequence[float],
) -> tuple[Float[np.ndarray, "_"], ...]:
    """Effects of all cells: those run, 0 where a patch changes nothing, NaN where no position has a counterpart."""
    raw = [np.full(len(own), work.sides.patched_value) for work, own in zip(works, cells, strict=True)]
    for (which, place, cell), value in zip(todo, values, strict=True):
        if not np.isfinite(value):
            raise UserError(
                f"the metric is {value} where {cell[0].site} is patched; the model may need --dtype float32"
            )
        raw[which][place] = value
    effects = []
    for work, own, row in zip(works, cells, raw, strict=True):
        row_effects = work.sides.effects(torch.from_numpy(row)).numpy()
        counterparts = work.sides.alignment.counterparts
        for place, cell in enumerate(own):
            if all(counterparts[q] is None for patch in cell for q in patch.positions):
                row_effects[place] = np.nan
        effects.append(row_effects)
    return tuple(effects)
