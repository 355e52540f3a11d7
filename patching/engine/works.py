"""What exact patching reads of each pair before it patches: activations of both runs, and where a patch changes anything.

Of a large model the activations of one pair at every head are gigabytes, so that not all pairs' are held at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, parse_site
from patching.engine.cells import Cell
from patching.engine.packed import DoesNotFit
from patching.engine.reference import read_sites, replacements
from patching.pairs import Sides
from triggerlens import UserError

_KEPT_BYTES = 1 << 30
"""Activations of pairs that are kept; of one pair they are held however large they are."""


@dataclass(frozen=True)
class Work:
    """One pair in one direction, with the activations of both runs."""

    patched: Mapping[str, Float[Tensor, "position _"]]
    """Of the patched run, at sites of which only a part is replaced."""
    source: Mapping[str, Float[Tensor, "source_position _"]]
    replacement: Mapping[str, Float[Tensor, "position _"]]
    """What each position of the patched run is replaced by."""
    live: Mapping[str, Bool[np.ndarray, "position"]]
    """Positions where a patch at the site changes anything."""

    @property
    def bytes(self) -> int:
        """Of its tensors."""
        return sum(value.nbytes for own in (self.patched, self.source, self.replacement) for value in own.values())

    def written(self, cell: Cell) -> Mapping[str, Float[Tensor, "position _"]]:
        """What a cell writes at whole positions. A pattern that is replaced in part keeps the rest of what the unpatched run had:
        so it is where nothing else is patched (`Works.check_packed`)."""
        keys = cell[0].keys
        if keys is None:
            return self.replacement
        site = cell[0].site
        row = self.patched[site].clone()
        row[:, list(keys)] = self.replacement[site][:, list(keys)]
        return {site: row}


class Works:
    """The works of all pairs: as many as fit `_KEPT_BYTES` are kept, and another is read again when its turn comes."""

    def __init__(self, model: HookedModel, sides: Sequence[Sides], cells: Sequence[Sequence[Cell]]):
        """Of each pair in one direction, with the cells that are to be patched in it."""
        self.model, self.sides, self.cells = model, sides, cells
        self._kept: dict[int, Work] = {}

    def __getitem__(self, which: int) -> Work:
        """The work of a pair.

        Raises:
            UserError: a site or position that the model or the run lacks, or runs that cannot be aligned.
        """
        if which in self._kept:
            return self._kept[which]
        work = self._kept[which] = _work(self.model, self.sides[which], self.cells[which])
        held = sum(own.bytes for own in self._kept.values())
        for oldest in list(self._kept)[:-1]:
            if held <= _KEPT_BYTES:
                break
            held -= self._kept.pop(oldest).bytes
        return work

    def live_cells(self) -> list[tuple[int, int, Cell]]:
        """(pair, place, what is left of the cell) of each cell that must be run; errors as of a work."""
        live = []
        for which, (_, own) in enumerate(zip(self.sides, self.cells, strict=True)):
            changes = self[which].live
            for place, cell in enumerate(own):
                left = tuple(replace(p, positions=tuple(q for q in p.positions if changes[p.site][q])) for p in cell)
                left = tuple(patch for patch in left if patch.positions)
                if left:
                    live.append((which, place, left))
        return live

    def check_packed(self, todo: Sequence[tuple[int, int, Cell]]) -> None:
        """Whether all cells can be written at whole positions.

        Raises:
            DoesNotFit: a part of a pattern is patched together with something else.
        """
        if any(len(cell) > 1 and any(patch.keys is not None for patch in cell) for _, _, cell in todo):
            raise DoesNotFit("parts of attention patterns are patched together with other things")


def _work(model: HookedModel, sides: Sides, cells: Sequence[Cell]) -> Work:
    sites = list(dict.fromkeys(patch.site for cell in cells for patch in cell))
    model.check_sites(sites)
    _check_positions(cells, len(sides.patched))
    patched, source = (read_sites(model, ids, sites) for ids in (sides.patched, sides.source))
    replacement = {site: replacements(sides, site, source[site]) for site in sites}
    live = {}
    for site in sites:
        changes = (patched[site] != replacement[site]).any(-1).cpu()
        changes[: sides.alignment.unchanged] = False
        live[site] = (changes & sides.alignment.mask).numpy()
    in_part = {patch.site for cell in cells for patch in cell if patch.keys is not None}
    return Work({site: patched[site] for site in in_part}, source, replacement, live)


def _check_positions(cells: Sequence[Cell], length: int) -> None:
    for patch in (patch for cell in cells for patch in cell):
        outside = next(
            (position for position in (*patch.positions, *(patch.keys or ())) if not 0 <= position < length), None
        )
        if outside is not None:
            raise UserError(f"{patch.site}: no position {outside}; the patched run has {length} tokens")
        if patch.keys is not None and parse_site(patch.site).kind != "pattern":
            raise UserError(f"{patch.site}: only a pattern has keys")
