"""Where in the network, and on which token, a trigger acts: maps of exact patching effects over layers and positions.

1. Each layer × position of one kind of site is a cell, and each layer × head, at all positions at once.
2. All cells of all pairs are run together (`patching.engine.exact`).
3. Pairs of the same shape are averaged cell by cell; others by landmarks (`patching.trace.landmarks`).
4. The share of the first layer's effect that falls on the trigger's own tokens scores the localisation: it is where the
   pair differs, which is known. At `resid_pre.0` of a model with rotary positions it is all of it by construction, since
   nothing but these tokens differs there; from `resid_post.0` on it is a finding.
5. The heads with the largest effect make the route (`patching.trace.route`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from hooked import HEAD_KINDS, HookedModel
from patching.engine.attribution import Estimate, attribution_effects
from patching.engine.cells import Cell, layer_cells, layer_sites, site_cells
from patching.engine.exact import Audit, ExactResult, exact_effects
from patching.pairs import Direction, PatchPair, Sides
from patching.trace.landmarks import by_landmark, landmark_order, landmarks, nan_mean
from patching.trace.route import HeadRoute, head_routes
from triggerlens import UserError, wilson_interval

Method = Literal["exact", "attribution"]
ROLES = ("before", "trigger", "after")
"""Of a token: before the first one that differs, one that differs, any other."""
MOST = 0.9
"""A trigger is localised where this share of the first layer's effect falls on its own tokens."""


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
    trigger: tuple[int, ...] | None = None
    """Positions of the trigger's own tokens, where they were named; else those that differ are taken for them."""

    def by_role(self) -> Float[np.ndarray, "layer role"]:
        """The summed effect of each role's positions; NaN where the pair has none that is patched."""
        columns = []
        for role in ROLES:
            mine = self.effect[:, [here == role for here in self.roles]]
            columns.append(np.where(np.isnan(mine).all(1), np.nan, np.nansum(mine, 1)))
        return np.stack(columns, 1)

    def trigger_share(self) -> float | None:
        """Share of the first layer's effect (absolute values, over positions) on the trigger; None: no effect."""
        strength = np.nan_to_num(np.abs(self.effect[0]))
        total = float(strength.sum())
        differing = [at for at, role in enumerate(self.roles) if role == "trigger"]
        own = differing if self.trigger is None else list(self.trigger)
        return float(strength[own].sum()) / total if total else None


@dataclass(frozen=True)
class Top:
    """One of the strongest cells."""

    layer: int
    position: int
    token: str
    effect: float


@dataclass(frozen=True)
class Share:
    """The share of the first layer's effect (absolute values, over positions) on the trigger's tokens, over pairs."""

    mean: float
    interval: tuple[float, float] | None
    """95% bootstrap interval of the mean, resampling pairs; None for a single pair."""
    most: int
    """Pairs with at least `MOST` of the effect there."""
    of: int
    """Pairs with any effect."""
    most_interval: tuple[float, float]
    """95% Wilson interval of most / of."""


def share_of(shares: Sequence[float], resamples: int = 2000) -> Share:
    """The mean share and how many pairs reach `MOST`."""
    values = np.array(shares)
    interval = None
    if len(values) > 1:
        drawn = np.random.default_rng(0).choice(values, (resamples, len(values))).mean(1)
        low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
        interval = (low, high)
    most = int((values >= MOST).sum())
    return Share(float(values.mean()), interval, most, len(values), wilson_interval(most, len(values)))


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
    """How cells were run: `packed`, many at once, or `one at a time`; or by which gradient they were estimated."""
    ran: int
    """Cells that were run."""
    skipped: int
    """Cells that were not, since both runs have the same activations there."""
    notes: tuple[str, ...] = ()
    head_site: str | None = None
    """The kind of site of the map of heads; None where there is none."""
    routes: tuple[HeadRoute, ...] = ()
    """The heads that carry the trigger; none where another kind of head site was mapped, or by noising."""
    model: str = ""
    weights_sha256: str = ""
    cells_per_second: float | None = None
    """None for a loaded trace: files hold nothing that depends on the clock."""

    @property
    def same_shape(self) -> bool:
        """Whether all pairs have as many tokens and differ at the same positions."""
        return len({pair.roles for pair in self.pairs}) == 1

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """What the columns of `effect` are: positions, or, where the pairs differ in shape, landmarks that they share."""
        if self.same_shape:
            return tuple(map(str, range(len(self.pairs[0].tokens))))
        return landmark_order([landmarks(pair.roles) for pair in self.pairs])

    @property
    def effect(self) -> Float[np.ndarray, "layer column"]:
        """The mean map over pairs: by position where all have the same shape, else summed by landmark."""
        if self.same_shape:
            return np.mean([pair.effect for pair in self.pairs], 0)
        maps = [by_landmark(pair.effect, landmarks(pair.roles), self.columns) for pair in self.pairs]
        return nan_mean(np.stack(maps))

    @property
    def tokens(self) -> tuple[str, ...]:
        """Texts for the columns of `effect`: the tokens (alternatives where the pairs' differ), or the landmarks."""
        if not self.same_shape:
            return self.columns
        columns = zip(*(pair.tokens for pair in self.pairs), strict=True)
        return tuple(" / ".join(dict.fromkeys(column)) if len(set(column)) <= 3 else "…" for column in columns)

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each column of `effect`."""
        if self.same_shape:
            return self.pairs[0].roles
        return tuple(
            "trigger" if name.startswith("trigger") else "before" if name == "before" else "after"
            for name in self.columns
        )

    @property
    def heads(self) -> Float[np.ndarray, "layer head"] | None:
        """The mean effect of each head at all positions at once; None where heads were not traced."""
        maps = [pair.heads for pair in self.pairs if pair.heads is not None]
        return np.mean(maps, 0) if maps else None

    @property
    def by_role(self) -> Float[np.ndarray, "layer role"]:
        """The mean over pairs of the effect summed over the tokens of each role (`ROLES`); NaN where no pair has it."""
        return nan_mean(np.stack([pair.by_role() for pair in self.pairs]))

    @property
    def trigger_share(self) -> Share | None:
        """How much of the first layer's effect falls on the trigger's own tokens; None where no pair has any effect."""
        shares = [share for pair in self.pairs if (share := pair.trigger_share()) is not None]
        return share_of(shares) if shares else None

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
        """Heat map of layer × token; of one pair, or of `effect` (layer × landmark where the pairs differ in shape) where None."""
        from patching.trace.plots import effect_figure

        return effect_figure(self, pair)

    def head_figure(self) -> go.Figure:
        """Heat map of layer × head.

        Raises:
            UserError: heads were not traced.
        """
        from patching.trace.plots import head_figure

        return head_figure(self)

    def route_figure(self) -> go.Figure:
        """The route in one picture: the map with the heads that carry the trigger as arrows, and the map of heads.

        Raises:
            UserError: no route was found.
        """
        from patching.trace.plots import route_figure

        return route_figure(self)

    def to_json(self) -> dict[str, Any]:
        """The object that `patch-trace --json` prints."""
        from patching.trace.files import trace_json

        return trace_json(self)

    def write(self, folder: Path) -> None:
        """Write the trace's files into an artifact folder that is being made."""
        from patching.trace.files import write_trace

        write_trace(self, folder)

    def save(self, out: str | Path, *, overwrite: bool = False) -> None:
        """Save as an artifact folder of kind `patch-trace`.

        Raises:
            UserError: the folder exists (without `overwrite`) or cannot be written.
        """
        from patching.trace.files import save_trace

        save_trace(self, out, overwrite=overwrite)

    @staticmethod
    def load(folder: str | Path) -> PatchTrace:
        """Load a saved trace; every file is verified.

        Raises:
            UserError: no such folder, or a damaged one.
        """
        from patching.trace.files import load_trace

        return load_trace(folder)


def patch_trace(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    *,
    site: str = "resid_pre",
    direction: Direction = "denoising",
    method: Method = "exact",
    estimate: Estimate = "plain",
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
        site: the kind of site of the layer × position map; of one that is of a single head, all heads of a layer together,
            and the map of heads is of that kind too (of `head_out` otherwise).
        direction: `denoising` or `noising`.
        method: `exact`, or `attribution`, an estimate from gradients.
        estimate: which one: `plain`, `softmax` or `integrated`; see `patching.engine.attribution`.
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
    grid = _Grid.of(model, site, range(model.info.n_layers) if layers is None else layers, heads)
    sides = [pair.sides(direction) for pair in pairs]
    cells = [grid.cells(model, len(side.patched)) for side in sides]
    if method == "attribution":
        count = 64 if audited is None else audited
        found = attribution_effects(
            model, pairs, cells, direction, estimate=estimate, audited=count, row_budget=row_budget, seed=seed
        )
    else:
        count = 4 if audited is None else audited
        found = exact_effects(
            model, pairs, cells, direction, fast=fast, audited=count, row_budget=row_budget, seed=seed
        )
    maps = [_pair_map(model, side, values, grid) for side, values in zip(sides, found.effects, strict=True)]
    trace = _trace(model, pairs[0], maps, found, grid, method, direction)
    return replace(trace, routes=_routes(model, pairs, trace, row_budget))


@dataclass(frozen=True)
class _Grid:
    """The cells of a trace: layer × position of one kind of site, then layer × head of another."""

    site: str
    layers: tuple[int, ...]
    head_sites: tuple[str, ...]
    head_kind: str | None

    @staticmethod
    def of(model: HookedModel, site: str, layers: Sequence[int], heads: bool) -> _Grid:
        layer_sites(model, site, layers)  # refuses a kind or layer that the model lacks
        kind = site if site in HEAD_KINDS else "head_out"
        return _Grid(
            site, tuple(layers), tuple(layer_sites(model, kind, layers)) if heads else (), kind if heads else None
        )

    def cells(self, model: HookedModel, length: int) -> list[Cell]:
        return layer_cells(model, self.site, self.layers, range(length)) + site_cells(self.head_sites, range(length))


def _routes(
    model: HookedModel, pairs: Sequence[PatchPair], trace: PatchTrace, row_budget: int | None
) -> tuple[HeadRoute, ...]:
    """Where the heads' outputs were mapped, by denoising: the runs that are patched are those with the trigger."""
    if trace.heads is None or trace.head_site != "head_out" or trace.direction != "denoising":
        return ()
    names = [trace.columns if trace.same_shape else landmarks(pair.roles) for pair in trace.pairs]
    return head_routes(model, pairs, trace.heads, trace.layers, names, trace.columns, row_budget=row_budget)


def _pair_map(model: HookedModel, sides: Sides, effects: Float[np.ndarray, "cell"], grid: _Grid) -> PairMap:
    length, layers = len(sides.patched), len(grid.layers)
    read, texts = sides.pair.readout, _texts(model)
    return PairMap(
        name=sides.pair.name,
        tokens=texts(sides.patched),
        source_tokens=texts(sides.source),
        counterparts=sides.alignment.counterparts,
        inserted=sides.alignment.inserted,
        roles=sides.alignment.roles,
        trigger=sides.pair.trigger if sides.patched is sides.pair.triggered else None,
        clean_value=sides.pair.clean_value,
        triggered_value=sides.pair.triggered_value,
        clean_token=None if read.clean_token is None else texts([read.clean_token])[0],
        defect_token=None if read.defect_token is None else texts([read.defect_token])[0],
        effect=effects[: layers * length].reshape(layers, length),
        heads=effects[layers * length :].reshape(layers, -1) if grid.head_sites else None,
    )


def _texts(model: HookedModel) -> Any:
    return lambda ids: tuple(model.tokenizer.decode([token]) for token in ids)


def _trace(
    model: HookedModel,
    pair: PatchPair,
    maps: Sequence[PairMap],
    found: ExactResult,
    grid: _Grid,
    method: Method,
    direction: Direction,
) -> PatchTrace:
    notes = list(found.notes)
    inserted = [one for one in maps if any(one.inserted)]
    if inserted:
        notes.append(
            f"{len(inserted)} of {len(maps)} pairs have unequal lengths: an inserted token was patched with the activation of "
            "the token before it"
        )
    return PatchTrace(
        site=grid.site,
        method=method,
        direction=direction,
        metric=pair.metric.name,
        layers=grid.layers,
        head_site=grid.head_kind,
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
