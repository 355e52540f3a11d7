"""Where in the network, and on which token, a trigger acts: maps of exact patching effects over layers and positions.

1. Each layer × position of one kind of site is a cell (for `head_out`: each layer × head, at all positions at once).
2. All cells of all pairs are run together (`patching.exact`).
3. Pairs of the same shape are averaged cell by cell; others by the role of the token: before the trigger, on it, after it.
4. The share of the first layer's effect that falls on the trigger's own tokens scores the localisation: it is where the
   pair differs, which is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from hooked import HookedModel, UserError
from patching.attribution import attribution_effects
from patching.cells import Cell, layer_sites, position_cells, site_cells
from patching.exact import Audit, ExactResult, exact_effects
from patching.pairs import Direction, PatchPair, Sides

Method = Literal["exact", "attribution"]
ROLES = ("before", "trigger", "after")
"""Of a token: before the first one that differs, one that differs, any other."""


@dataclass(frozen=True)
class PairMap:
    """One pair's map."""

    name: str
    tokens: tuple[str, ...]
    """Text of each token of the run that is patched."""
    source_tokens: tuple[str, ...]
    counterparts: tuple[int | None, ...]
    """For each position, where its replacement was read in the source run; None: not patched."""
    inserted: tuple[bool, ...]
    """Positions that only the patched run has: their replacement is a neighbour's."""
    roles: tuple[str, ...]
    """`before`, `trigger` or `after`, for each position."""
    clean_value: float
    """The metric on the unpatched clean run."""
    triggered_value: float
    clean_token: str | None
    """What the clean run goes on with where the metric is read; None where the metric is of a given string."""
    defect_token: str | None
    effect: Float[np.ndarray, "layer position"]
    """0: as without the patch; 1: as in the source run. NaN: not patched."""
    heads: Float[np.ndarray, "layer head"] | None = None
    """The same for each head, at all positions at once."""

    def by_role(self) -> Float[np.ndarray, "layer role"]:
        """The summed effect of each role's positions; NaN where the pair has none that is patched."""
        columns = []
        for role in ROLES:
            mine = self.effect[:, [here == role for here in self.roles]]
            columns.append(np.where(np.isnan(mine).all(1), np.nan, np.nansum(mine, 1)))
        return np.stack(columns, 1)

    def trigger_share(self) -> float | None:
        """Share of the first layer's effect (absolute values, over positions) on tokens that differ; None: no effect."""
        strength = np.nan_to_num(np.abs(self.effect[0]))
        total = float(strength.sum())
        return float(strength[[role == "trigger" for role in self.roles]].sum()) / total if total else None


@dataclass(frozen=True)
class Top:
    """One of the strongest cells."""

    layer: int
    position: int
    token: str
    effect: float


@dataclass(frozen=True)
class PatchTrace:
    """What `patch_trace` found."""

    site: str
    """The kind of site."""
    method: str
    direction: Direction
    metric: str
    layers: tuple[int, ...]
    pairs: tuple[PairMap, ...]
    audit: Audit
    engine: str
    """How cells were run: `packed`, many at once, or `one at a time`."""
    ran: int
    """Cells that were run."""
    skipped: int
    """Cells that were not, since both runs have the same activations there."""
    notes: tuple[str, ...] = ()
    model: str = ""
    weights_sha256: str = ""
    cells_per_second: float | None = None
    """None for a loaded trace: files hold nothing that depends on the clock."""

    @property
    def same_shape(self) -> bool:
        """Whether all pairs have as many tokens and differ at the same positions."""
        return len({pair.roles for pair in self.pairs}) == 1

    @property
    def effect(self) -> Float[np.ndarray, "layer position"]:
        """The mean map where all pairs have the same shape, else the first pair's."""
        return np.mean([pair.effect for pair in self.pairs], 0) if self.same_shape else self.pairs[0].effect

    @property
    def tokens(self) -> tuple[str, ...]:
        """Texts for the columns of `effect`: alternatives where the pairs' tokens differ."""
        if not self.same_shape:
            return self.pairs[0].tokens
        columns = zip(*(pair.tokens for pair in self.pairs), strict=True)
        return tuple(" / ".join(dict.fromkeys(column)) if len(set(column)) <= 3 else "…" for column in columns)

    @property
    def heads(self) -> Float[np.ndarray, "layer head"] | None:
        """The mean effect of each head at all positions at once; None where heads were not traced."""
        maps = [pair.heads for pair in self.pairs if pair.heads is not None]
        return np.mean(maps, 0) if maps else None

    @property
    def by_role(self) -> Float[np.ndarray, "layer role"]:
        """The mean over pairs of the effect summed over the tokens of each role (`ROLES`); NaN where no pair has it."""
        stack = np.stack([pair.by_role() for pair in self.pairs])
        count = (~np.isnan(stack)).sum(0)
        return np.divide(np.nansum(stack, 0), count, out=np.full(count.shape, np.nan), where=count > 0)

    @property
    def trigger_share(self) -> float | None:
        """The mean over pairs of the share of the first layer's effect on the trigger's own tokens."""
        shares = [share for pair in self.pairs if (share := pair.trigger_share()) is not None]
        return float(np.mean(shares)) if shares else None

    def top(self, count: int = 10) -> tuple[Top, ...]:
        """The cells of `effect` with the largest absolute effect, strongest first; cells without effect are left out."""
        effect = np.nan_to_num(self.effect)
        order = np.argsort(-np.abs(effect), axis=None, kind="stable")[:count]
        tokens = self.tokens
        cells = [np.unravel_index(at, effect.shape) for at in order]
        return tuple(
            Top(self.layers[row], int(column), tokens[column], float(effect[row, column]))
            for row, column in cells
            if effect[row, column] != 0
        )

    def figure(self, pair: int | None = None) -> go.Figure:
        """Heat map of layer × token; of one pair, or of `effect` where None."""
        from patching.figures import effect_figure

        return effect_figure(self, pair)

    def head_figure(self) -> go.Figure:
        """Heat map of layer × head.

        Raises:
            UserError: heads were not traced.
        """
        from patching.figures import head_figure

        return head_figure(self)

    def to_json(self) -> dict[str, Any]:
        """The object that `patch-trace --json` prints."""
        from patching.files import trace_json

        return trace_json(self)

    def write(self, folder: Path) -> None:
        """Write the trace's files into an artifact folder that is being made."""
        from patching.files import write_trace

        write_trace(self, folder)

    def save(self, out: str | Path, *, overwrite: bool = False) -> None:
        """Save as an artifact folder of kind `patch-trace`.

        Raises:
            UserError: the folder exists (without `overwrite`) or cannot be written.
        """
        from patching.files import save_trace

        save_trace(self, out, overwrite=overwrite)

    @staticmethod
    def load(folder: str | Path) -> PatchTrace:
        """Load a saved trace; every file is verified.

        Raises:
            UserError: no such folder, or a damaged one.
        """
        from patching.files import load_trace

        return load_trace(folder)


def patch_trace(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    *,
    site: str = "resid_pre",
    direction: Direction = "denoising",
    method: Method = "exact",
    layers: Sequence[int] | None = None,
    heads: bool = True,
    fast: bool = True,
    audited: int | None = None,
    row_budget: int | None = None,
    seed: int = 0,
) -> PatchTrace:
    """Map the effect of patching each layer × position, and each head.

    Args:
        model: the model.
        pairs: pairs of prompts, from `make_pair` or `make_pairs`.
        site: the kind of site of the layer × position map: any but `head_out`.
        direction: `denoising` or `noising`.
        method: `exact`, or `attribution`, an estimate from gradients.
        layers: layers to patch; all where None.
        heads: map the heads too.
        fast: run many cells at once, where the model fits.
        audited: how many cells are also run in a surer way, and compared; 4 of exact patching and 64 of attribution
            where None.
        row_budget: rows in one chunk.
        seed: of the choice of audited cells.

    Raises:
        UserError: no pair; the model lacks the site; runs that cannot be aligned; a flat metric.
    """
    if not pairs:
        raise UserError("there is no pair to trace")
    if direction not in ("denoising", "noising"):
        raise UserError(f"unknown direction {direction!r}; choose denoising or noising")
    if site == "head_out":
        raise UserError(
            "head_out is mapped by layer × head beside the map of another site; choose one such as attn_out"
        )
    chosen_layers = tuple(range(model.info.n_layers) if layers is None else layers)
    sides = [pair.sides(direction) for pair in pairs]
    grid, head_grid = layer_sites(model, site, chosen_layers), layer_sites(model, "head_out", chosen_layers)
    cells = [_cells(grid, head_grid if heads else [], len(side.patched)) for side in sides]
    if method == "attribution":
        count = 64 if audited is None else audited
        found = attribution_effects(model, pairs, cells, direction, audited=count, row_budget=row_budget, seed=seed)
    else:
        count = 4 if audited is None else audited
        found = exact_effects(
            model, pairs, cells, direction, fast=fast, audited=count, row_budget=row_budget, seed=seed
        )
    maps = [
        _pair_map(model, side, effects, len(chosen_layers), heads)
        for side, effects in zip(sides, found.effects, strict=True)
    ]
    return _trace(model, pairs[0], maps, found, site, method, direction, chosen_layers)


def _cells(grid: Sequence[str], head_grid: Sequence[str], length: int) -> list[Cell]:
    return position_cells(grid, range(length)) + site_cells(head_grid, range(length))


def _pair_map(
    model: HookedModel, sides: Sides, effects: Float[np.ndarray, "cell"], layers: int, heads: bool
) -> PairMap:
    length = len(sides.patched)
    read, texts = sides.pair.readout, _texts(model)
    return PairMap(
        name=sides.pair.name,
        tokens=texts(sides.patched),
        source_tokens=texts(sides.source),
        counterparts=sides.alignment.counterparts,
        inserted=sides.alignment.inserted,
        roles=sides.alignment.roles,
        clean_value=sides.pair.clean_value,
        triggered_value=sides.pair.triggered_value,
        clean_token=None if read.clean_token is None else texts([read.clean_token])[0],
        defect_token=None if read.defect_token is None else texts([read.defect_token])[0],
        effect=effects[: layers * length].reshape(layers, length),
        heads=effects[layers * length :].reshape(layers, -1) if heads else None,
    )


def _texts(model: HookedModel) -> Any:
    return lambda ids: tuple(model.tokenizer.decode([token]) for token in ids)


def _trace(
    model: HookedModel,
    pair: PatchPair,
    maps: Sequence[PairMap],
    found: ExactResult,
    site: str,
    method: Method,
    direction: Direction,
    layers: tuple[int, ...],
) -> PatchTrace:
    notes = list(found.notes)
    inserted = [one for one in maps if any(one.inserted)]
    if inserted:
        notes.append(
            f"{len(inserted)} of {len(maps)} pairs have unequal lengths: an inserted token was patched with the activation of "
            "the token before it"
        )
    return PatchTrace(
        site=site,
        method=method,
        direction=direction,
        metric=pair.metric.name,
        layers=layers,
        pairs=tuple(maps),
        audit=found.audit,
        engine=found.engine,
        ran=found.ran,
        skipped=found.skipped,
        notes=tuple(notes),
        model=model.info.name,
        weights_sha256=model.info.weights_sha256,
        cells_per_second=found.cells_per_second,
    )
