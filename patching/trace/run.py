"""Where in the network, and on which token, a trigger acts: maps of exact patching effects over layers and positions.

1. Each layer × position of one kind of site is a cell, and each layer × head, at all positions at once.
2. All cells of all pairs are run together (`patching.engine.exact`), or estimated (`patching.engine.attribution`).
3. Each pair gets its map. Over pairs of the same shape maps are averaged cell by cell; over others by landmarks
   (`patching.trace.landmarks`).
4. The share of the effect that falls on the trigger's own tokens scores the localisation: it is where the pair differs, which is known. It is read, as are
   the strongest cells, from the first row that tells anything: at `resid_pre.0` (and at `q.0`, `k.0` and `v.0`, which are made of it) all is on these tokens
   by construction, since nothing else differs there; from `resid_pre.1`, which is `resid_post.0`, on it is a finding.
5. The heads with the largest effect make the route (`patching.trace.route`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from jaxtyping import Float

from hooked import HEAD_KINDS, HookedModel, Prompt, contradictions, defecting_pairs, file_of, pair_prompts
from patching.engine.attribution import attribution_effects
from patching.engine.cells import Cell, layer_cells, layer_sites, site_cells
from patching.engine.exact import ONE_AT_A_TIME, ExactResult, exact_effects
from patching.minimal import pair_difference
from patching.options import Direction, EstimateKind, Method
from patching.pairs import PatchPair, Sides, make_pairs
from patching.trace.config import TraceConfig
from patching.trace.result import PairMap, PatchTrace
from patching.trace.route import HeadRoute, head_routes
from triggerlens import UserError

_AUDITED = {"exact": 4, "attribution": 64}
"""Cells that are also computed in a surer way, where nobody says how many."""
_COMPARED = 200
"""Pairs of the file that are looked at for what they differ in, at most."""


def trace_prompts(model: HookedModel, prompts: Sequence[Prompt], config: TraceConfig | None = None) -> PatchTrace:
    """Trace the first usable pairs of a prompt file; those before them that cannot be used are counted in the notes.

    Args:
        model: the model.
        prompts: of a file, with their pairs.
        config: what is patched, and how a run is judged; the defaults where None.

    Returns:
        The trace, with how much the pairs of the file differ.

    Raises:
        UserError: no prompt of the split, no usable pair, or as `patch_trace`.
    """
    config = config or TraceConfig()
    own = [prompt for prompt in prompts if config.split in (None, prompt.split)]
    if not own:
        raise UserError(f"{file_of(prompts)}: has no prompt of split {config.split!r}")
    pairs, refused = make_pairs(
        model,
        own,
        config.pairs,
        config.metric,
        string=config.string,
        new_tokens=config.new_tokens,
        inserted=config.inserted,
        trigger=config.trigger,
    )
    tokens = [row.ids for row in model.tokenize(own)]
    note = contradictions(own, tokens)
    defecting = defecting_pairs(pair_prompts(own))[:_COMPARED]
    difference = pair_difference([(tokens[pair.clean_index], tokens[pair.triggered_index]) for pair in defecting])
    trace = patch_trace(
        model,
        pairs,
        site=config.site,
        direction=config.direction,
        method=config.method,
        estimate=config.estimate,
        heads=config.heads,
        audited=config.audited,
        row_budget=config.row_budget,
        seed=config.seed,
    )
    notes = [note] if note else []
    if refused:
        notes.append(f"{len(refused)} pairs were passed over; the first: {refused[0]}")
    return replace(trace, difference=difference, notes=(*trace.notes, *notes))


def patch_trace(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    *,
    site: str = "resid_pre",
    direction: Direction = "denoising",
    method: Method = "exact",
    estimate: EstimateKind = "plain",
    layers: Sequence[int] | None = None,
    heads: bool = True,
    fast: bool = True,
    audited: int | None = None,
    row_budget: int | None = None,
    seed: int = 0,
) -> PatchTrace:
    """Map the effect of patching each layer × position, and each head; options that are not here are as in `TraceConfig`.

    Args:
        model: the model.
        pairs: pairs of prompts, from `make_pair` or `make_pairs`.
        layers: layers to patch; all where None.
        fast: run many cells at once, where the model fits.

    Returns:
        Maps of effects (0: as without a patch; 1: as in the source run), of each pair and over all, with their check.

    Raises:
        UserError: no pair; the model lacks the site; runs that cannot be aligned; a flat metric.
    """
    if not pairs:
        raise UserError("there is no pair to trace")
    for name, value, choices in (("direction", direction, Direction), ("method", method, Method)):
        if value not in get_args(choices):
            raise UserError(f"unknown {name} {value!r}; choose {' or '.join(get_args(choices))}")
    grid = _grid(model, site, range(model.info.n_layers) if layers is None else layers, heads)
    sides = [pair.sides(direction) for pair in pairs]
    cells = [grid.cells(model, len(side.patched)) for side in sides]
    count = _AUDITED[method] if audited is None else audited
    if method == "attribution":
        patched = attribution_effects(
            model,
            pairs,
            cells,
            direction,
            estimate=estimate,
            fast=fast,
            audited=count,
            row_budget=row_budget,
            seed=seed,
        )
    else:
        patched = exact_effects(
            model, pairs, cells, direction, fast=fast, audited=count, row_budget=row_budget, seed=seed
        )
    maps = [_pair_map(model, side, values, grid) for side, values in zip(sides, patched.effects, strict=True)]
    trace = _trace(model, pairs[0], maps, patched, grid, method, direction)
    fast = fast and patched.engine != ONE_AT_A_TIME
    checked = min(count, _AUDITED["exact"])
    return replace(trace, routes=_routes(model, pairs, trace, fast=fast, audited=checked, row_budget=row_budget))


@dataclass(frozen=True)
class _Grid:
    """Step 1: the cells of a trace, layer × position of one kind of site, then layer × head of another."""

    site: str
    layers: tuple[int, ...]
    head_sites: tuple[str, ...]
    head_kind: str | None

    def cells(self, model: HookedModel, length: int) -> list[Cell]:
        return layer_cells(model, self.site, self.layers, range(length)) + site_cells(self.head_sites, range(length))


def _grid(model: HookedModel, site: str, layers: Sequence[int], heads: bool) -> _Grid:
    layer_sites(model, site, layers)  # refuses a kind or layer that the model lacks
    kind = site if site in HEAD_KINDS else "head_out"
    with_heads = [layer for layer in layers if model.anatomy.has_attention(layer)]
    head_sites = tuple(layer_sites(model, kind, with_heads)) if heads else ()
    return _Grid(site, tuple(layers), head_sites, kind if heads else None)


def _pair_map(model: HookedModel, sides: Sides, effects: Float[np.ndarray, "cell"], grid: _Grid) -> PairMap:
    """Step 3."""
    length, layers = len(sides.patched), len(grid.layers)
    read = sides.pair.readout
    return PairMap(
        name=sides.pair.name,
        tokens=_texts(model, sides.patched),
        source_tokens=_texts(model, sides.source),
        counterparts=sides.alignment.counterparts,
        inserted=sides.alignment.inserted,
        roles=sides.alignment.roles,
        trigger=sides.pair.trigger if sides.patched is sides.pair.triggered else None,
        clean_value=sides.pair.clean_value,
        triggered_value=sides.pair.triggered_value,
        clean_token=None if read.clean_token is None else _texts(model, [read.clean_token])[0],
        defect_token=None if read.defect_token is None else _texts(model, [read.defect_token])[0],
        effect=effects[: layers * length].reshape(layers, length),
        heads=_head_map(model, effects[layers * length :], grid) if grid.head_sites else None,
    )


def _head_map(model: HookedModel, effects: Float[np.ndarray, "site"], grid: _Grid) -> Float[np.ndarray, "layer head"]:
    """Effects by layer and head; 0 in a layer without attention, which has no heads."""
    rows = [row for row, layer in enumerate(grid.layers) if model.anatomy.has_attention(layer)]
    values = effects.reshape(len(rows), -1)
    heads = np.zeros((len(grid.layers), values.shape[1]), dtype=values.dtype)
    heads[rows] = values
    return heads


def _texts(model: HookedModel, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(model.tokenizer.decode([token]) for token in ids)


def _trace(
    model: HookedModel,
    pair: PatchPair,
    maps: Sequence[PairMap],
    patched: ExactResult,
    grid: _Grid,
    method: Method,
    direction: Direction,
) -> PatchTrace:
    return PatchTrace(
        site=grid.site,
        method=method,
        direction=direction,
        metric=pair.metric.name,
        layers=grid.layers,
        head_site=grid.head_kind,
        pairs=tuple(maps),
        audit=patched.audit,
        engine=patched.engine,
        ran=patched.ran,
        skipped=patched.skipped,
        notes=(*patched.notes, *_inserted_notes(maps)),
        model=model.info.name,
        weights_sha256=model.info.weights_sha256,
        cells_per_second=patched.cells_per_second,
    )


def _inserted_notes(maps: Sequence[PairMap]) -> list[str]:
    """Said where tokens stand in one prompt of a pair alone: what was done with them."""
    done = Counter(what for pair in maps if (what := _done_with_inserted(pair)))
    return [
        f"{count} of {len(maps)} pairs have unequal lengths: an inserted token was {what}"
        for what, count in done.items()
    ]


def _done_with_inserted(pair: PairMap) -> str:
    """What its inserted tokens, which stand side by side, were patched with; empty where it has none."""
    if not any(pair.inserted):
        return ""
    first = pair.inserted.index(True)
    if pair.counterparts[first] is None:
        return "not patched"
    return f"patched with the activation of the token {'before' if first else 'after'} it"


def _routes(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    trace: PatchTrace,
    *,
    fast: bool,
    audited: int,
    row_budget: int | None,
) -> tuple[HeadRoute, ...]:
    """Step 5, where the heads' outputs were mapped by denoising: the runs that are patched are those with the trigger."""
    if trace.heads is None or trace.head_site != "head_out" or trace.direction != "denoising":
        return ()
    places = [trace.places(pair) for pair in trace.pairs]
    return head_routes(
        model,
        pairs,
        trace.heads,
        trace.layers,
        places,
        trace.columns,
        fast=fast,
        audited=audited,
        row_budget=row_budget,
    )
