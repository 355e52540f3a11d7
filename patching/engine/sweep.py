"""Many cells at once on packed rows (`patching.engine.packed`), with nothing computed that a patch cannot change.

1. A patch at layer l and position p changes nothing before layer l, and nothing left of p. So a cell starts at its first
   patched layer, and only rows from its first patched position on are run; keys and values left of it are the
   unpatched run's.
2. Where the first patch lies inside a block (`attn_out`, `mlp_out`, …), only the patched positions change in that block:
   only they are run through it. Not so for keys and values, which later positions read. `resid_post` of one layer is
   `resid_pre` of the next.
3. Cells that start at later layers join those already on their way, so each block runs once for a whole chunk.
4. In the last block all rows give keys and values, but only the rows that are read go on; from them, only the logits
   that the metric needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from hooked import KINDS, Site, parse_site
from patching.engine.cells import Cell
from patching.engine.packed import Group, PackedModel, Recorded, RowEdit, apply_edits
from patching.pairs import Sides

_READ_BY_LATER = ("resid_pre", "k", "v")
"""Kinds of site whose patch at one position reaches later positions in the same block."""
ROW_BUDGET = {"cpu": 2048, "cuda": 65536}
"""Rows in one chunk: enough for fast matrix products, few enough for the processor's cache (or a GPU's memory)."""


@dataclass(frozen=True)
class Piece:
    """One patch of a cell, with the values that it writes."""

    site: Site
    positions: Int[Tensor, "edited"]
    values: Float[Tensor, "edited _"]


@dataclass(frozen=True)
class Job:
    """One cell to be run."""

    index: int
    """Its place among the results."""
    run: int
    """Which recorded run it patches."""
    start: int
    """First position that is run."""
    pieces: tuple[Piece, ...]

    @cached_property
    def layer(self) -> int:
        """The first patched layer."""
        return min(piece.site.layer for piece in self.pieces)

    @cached_property
    def enters_inside(self) -> bool:
        """Whether its first patched layer gets its input unpatched (step 2)."""
        return not any(piece.site.kind in _READ_BY_LATER for piece in self.pieces if piece.site.layer == self.layer)

    def touched(self) -> Int[Tensor, "touched"]:
        """The positions patched in its first layer, sorted."""
        return torch.cat([piece.positions for piece in self.pieces if piece.site.layer == self.layer]).unique()


@dataclass(frozen=True)
class Plan:
    """One cell to be run, before the values that it writes are read: of all cells together they would fill the memory."""

    index: int
    """Its place among the results."""
    run: int
    """Which run it patches."""
    start: int
    """First position that is run."""
    layer: int
    """The first patched layer."""
    cell: Cell
    """Its patches, where they can reach the positions that are read."""


def plan_job(index: int, run: int, cell: Cell, sides: Sides, n_layers: int) -> Plan | None:
    """What must be run for a cell; None where no patch of it can reach the positions that are read."""
    read_from = start = len(sides.patched) - sides.pair.metric.tail
    patches = []
    for patch in cell:
        site = parse_site(patch.site)
        # In the last layer nothing carries a patch to other positions any more, but for what its attention still reads.
        ends = site.layer == n_layers - 1 and site.kind not in _READ_BY_LATER
        places = tuple(position for position in patch.positions if not ends or position >= read_from)
        if places:
            start = min(start, *places)
            patches.append(replace(patch, positions=places))
    if not patches:
        return None
    layer = min(_entered(patch.site, n_layers).layer for patch in patches)
    return Plan(index, run, start, layer, tuple(patches))


def make_job(plan: Plan, replacement: Mapping[str, Float[Tensor, "position _"]], n_layers: int) -> Job:
    """Turn a plan into a job; `replacement` has, by site, what each position of the patched run is replaced by."""
    pieces = []
    for patch in plan.cell:
        values = replacement[patch.site]
        edited = torch.tensor(patch.positions, device=values.device)
        pieces.append(Piece(_entered(patch.site, n_layers), edited, values[edited]))
    return Job(plan.index, plan.run, plan.start, tuple(pieces))


def _entered(name: str, n_layers: int) -> Site:
    """Where a patch is put in: `resid_post` of one layer is `resid_pre` of the next (step 2)."""
    site = parse_site(name)
    return Site("resid_pre", site.layer + 1) if site.kind == "resid_post" and site.layer < n_layers - 1 else site


@dataclass
class _Moving:
    """Cells of one run and one first position on their way through the layers."""

    jobs: list[Job] = field(default_factory=list)
    rows: list[Float[Tensor, "cell suffix d_model"]] = field(default_factory=list)


@dataclass(frozen=True)
class _Placed:
    """Where a cell's rows stand in the packed matrix."""

    job: Job
    offset: int
    positions: Int[Tensor, "position"]


class Sweep:
    """Runs cells as they are planned; at any time it holds what the cells of one chunk write, and the runs that these patch."""

    def __init__(
        self,
        model: PackedModel,
        sides: Sequence[Sides],
        make: Callable[[Plan], Job],
        recorded: Mapping[int, Recorded],
        budget: int | None = None,
    ):
        """Of a model.

        Args:
            model: the model.
            sides: the pair of each run.
            make: gives the job of a plan; asked run by run.
            recorded: runs that are recorded already, by their number.
            budget: rows in one chunk; a default for the device where None.
        """
        self.model, self.sides, self.make = model, sides, make
        self.runs = dict(recorded)
        self.budget = budget or ROW_BUDGET.get(model.device.type, 2048)
        self.last = len(model.blocks) - 1

    @torch.no_grad()
    def values(self, plans: Sequence[Plan]) -> dict[int, float]:
        """The metric of each cell's patched run, by its index."""
        values: dict[int, float] = {}
        with tqdm(total=len(plans), unit="cell", desc="patching", disable=None) as bar:
            for chunk in self._chunks(plans):
                self._record({plan.run: None for plan in chunk})
                values |= self._run([self.make(plan) for plan in chunk])
                bar.update(len(chunk))
        return values

    def _chunks(self, plans: Sequence[Plan]) -> Iterator[list[Plan]]:
        """Cells of the same run and first position side by side, cut into chunks under the budget of rows."""
        chunk: list[Plan] = []
        rows = 0
        for plan in sorted(plans, key=lambda plan: (plan.run, plan.start, plan.layer, plan.index)):
            needed = len(self.sides[plan.run].patched) - plan.start
            if chunk and rows + needed > self.budget:
                yield chunk
                chunk, rows = [], 0
            chunk.append(plan)
            rows += needed
        if chunk:
            yield chunk

    def _record(self, runs: Iterable[int]) -> None:
        """Hold these runs and no others: chunks go from run to run, and never back."""
        known, self.runs = self.runs, {}
        for run in runs:
            self.runs[run] = known[run] if run in known else self.model.record(self.sides[run].patched)

    def _run(self, chunk: list[Job]) -> dict[int, float]:
        moving: dict[tuple[int, int], _Moving] = {}
        for layer in range(min(job.layer for job in chunk), self.last):
            self._join(moving, [job for job in chunk if job.layer == layer and not job.enters_inside], layer)
            self._step(moving, [job for job in chunk if job.layer == layer and job.enters_inside], layer)
        self._join(moving, [job for job in chunk if job.layer == self.last and not job.enters_inside], self.last)
        return self._finish(moving, [job for job in chunk if job.layer == self.last and job.enters_inside])

    def _join(self, moving: dict[tuple[int, int], _Moving], jobs: Sequence[Job], layer: int) -> None:
        """Step 3: cells that start here get the unpatched run's rows."""
        for job in jobs:
            cells = moving.setdefault((job.run, job.start), _Moving())
            cells.jobs.append(job)
            cells.rows.append(self.runs[job.run].inputs[layer][None, job.start :])

    def _step(self, moving: dict[tuple[int, int], _Moving], inside: Sequence[Job], layer: int) -> None:
        """One block for all cells on their way, and for the patched positions of those that start inside it (step 2)."""
        rows, groups, placed = self._pack(moving)
        offset = sum(group.rows for group in groups)
        for run in sorted({job.run for job in inside}):
            touched = [(job, job.touched()) for job in inside if job.run == run]
            positions = torch.cat([places for _, places in touched])
            groups.append(Group(self.runs[run], 1, positions, self.runs[run].length))
            rows.append(self.runs[run].inputs[layer][positions])
            for job, places in touched:
                placed.append(_Placed(job, offset, places))
                offset += len(places)
        if not rows:
            return
        edits = _edits(placed, layer)
        packed = apply_edits(torch.cat(rows), [edit for edit in edits if edit.site.kind == "resid_pre"])
        output = self.model.block(layer, packed, groups, edits)
        self._unpack(moving, output)
        for place in placed[len(placed) - len(inside) :] if inside else []:
            changed = output[place.offset : place.offset + len(place.positions)]
            suffix = self.runs[place.job.run].inputs[layer + 1][place.job.start :]
            cells = moving.setdefault((place.job.run, place.job.start), _Moving())
            cells.jobs.append(place.job)
            cells.rows.append(suffix.index_copy(0, place.positions - place.job.start, changed)[None])

    def _finish(self, moving: dict[tuple[int, int], _Moving], inside: Sequence[Job]) -> dict[int, float]:
        """Step 4."""
        rows, groups, placed = self._pack(moving)
        tails, last_groups, last_placed = [], [], []
        if rows:
            packed = apply_edits(torch.cat(rows), _edits(placed, self.last, ("resid_pre",)))
            own = self.model.keys(self.last, packed, groups, _edits(placed, self.last, ("k", "v")))
            parts = packed.split([group.rows for group in groups])
            for (run, _), group, part, both in zip(moving, groups, parts, own, strict=True):
                tail = self._tail(run)
                tails.append(part.view(group.cells, len(group.positions), -1)[:, -len(tail) :].flatten(0, 1))
                last_groups.append(Group(group.run, group.cells, tail, group.start, both))
        for job in inside:
            recorded, tail = self.runs[job.run], self._tail(job.run)
            tails.append(recorded.inputs[self.last][tail])
            last_groups.append(Group(recorded, 1, tail, recorded.length))
        jobs = [place.job for place in placed] + list(inside)
        offset = 0
        for job in jobs:
            last_placed.append(_Placed(job, offset, self._tail(job.run)))
            offset += len(last_placed[-1].positions)
        kinds = tuple(kind for kind in KINDS if kind not in _READ_BY_LATER)
        output = self.model.block(self.last, torch.cat(tails), last_groups, _edits(last_placed, self.last, kinds))
        return self._read(last_placed, output)

    def _read(self, placed: Sequence[_Placed], output: Float[Tensor, "row d_model"]) -> dict[int, float]:
        """The metric of each cell, run by run."""
        by_job: dict[int, float] = {}
        for run in sorted({place.job.run for place in placed}):
            mine = [place for place in placed if place.job.run == run]
            metric = self.sides[run].pair.metric
            rows = torch.stack([output[place.offset : place.offset + metric.tail] for place in mine])
            values = metric(self.model.logits(rows, metric.tokens))
            by_job |= dict(zip((place.job.index for place in mine), values.tolist(), strict=True))
        return by_job

    def _tail(self, run: int) -> Int[Tensor, "tail"]:
        """The positions whose logits the metric needs."""
        length = self.runs[run].length
        return torch.arange(length - self.sides[run].pair.metric.tail, length, device=self.model.device)

    def _pack(
        self, moving: dict[tuple[int, int], _Moving]
    ) -> tuple[list[Float[Tensor, "row d_model"]], list[Group], list[_Placed]]:
        """The rows of all cells on their way, in groups of the same run and positions."""
        rows, groups, placed, offset = [], [], [], 0
        for (run, start), cells in moving.items():
            recorded = self.runs[run]
            positions = torch.arange(start, recorded.length, device=self.model.device)
            groups.append(Group(recorded, len(cells.jobs), positions, start))
            rows += [part.flatten(0, 1) for part in cells.rows]
            for job in cells.jobs:
                placed.append(_Placed(job, offset, positions))
                offset += len(positions)
        return rows, groups, placed

    def _unpack(self, moving: dict[tuple[int, int], _Moving], output: Float[Tensor, "row d_model"]) -> None:
        offset = 0
        for (run, start), cells in moving.items():
            suffix = self.runs[run].length - start
            size = len(cells.jobs) * suffix
            cells.rows = [output[offset : offset + size].view(len(cells.jobs), suffix, -1)]
            offset += size


def _edits(placed: Sequence[_Placed], layer: int, kinds: Sequence[str] | None = None) -> list[RowEdit]:
    """What is replaced at a layer, site by site, in rows of the packed matrix; patterns also run by run, as wide as each is long."""
    rows: dict[tuple[Site, int], list[Tensor]] = {}
    values: dict[tuple[Site, int], list[Tensor]] = {}
    for place in placed:
        for piece in place.job.pieces:
            if piece.site.layer != layer or (kinds is not None and piece.site.kind not in kinds):
                continue
            index = torch.searchsorted(place.positions, piece.positions)
            here = index < len(place.positions)
            here &= place.positions[index.clamp(max=len(place.positions) - 1)] == piece.positions
            key = (piece.site, place.job.run if piece.site.kind == "pattern" else 0)
            rows.setdefault(key, []).append(index[here] + place.offset)
            values.setdefault(key, []).append(piece.values[here])
    return [RowEdit(key[0], torch.cat(rows[key]), torch.cat(values[key])) for key in rows]
