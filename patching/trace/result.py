"""What a trace gives, as records and as files: maps in safetensors, everything else in JSON, no clock anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from patching.engine.exact import Audit
from patching.minimal import PairDifference
from patching.options import ROLES, Direction, Method, MetricName, Role
from patching.trace.landmarks import Column, by_column, landmark_order, landmarks, nan_mean
from patching.trace.route import HeadRoute
from triggerlens import (
    Estimate,
    Manifest,
    UserError,
    from_json,
    mean_share,
    rate,
    read_artifact,
    to_json,
    write_json,
    writing_artifact,
)

KIND = "patch-trace"
"""Of the artifact."""
MOST = 0.9
"""A trigger is localised where this share of the first layer's effect falls on its own tokens."""
_BY_CONSTRUCTION = ("resid_pre", "q", "k", "v")
"""Kinds of site that at layer 0 hang on a position's own token alone."""

Facts = TypeVar("Facts")


@dataclass(frozen=True, kw_only=True)
class PairFacts:
    """One pair, without its maps."""

    name: str
    """Of the pair in the prompt file, for people."""
    tokens: tuple[str, ...]
    """Text of each token of the run that is patched."""
    source_tokens: tuple[str, ...]
    """Text of each token of the run that activations come from."""
    counterparts: tuple[int | None, ...]
    """For each position, where its replacement was read in the source run; None: not patched."""
    inserted: tuple[bool, ...]
    """Positions that only the patched run has: their replacement is a neighbour's."""
    roles: tuple[Role, ...]
    """Of each position."""
    trigger: tuple[int, ...] | None = None
    """Positions of the trigger's own tokens, where they were named; else those that differ are taken for them."""
    clean_value: float
    """The metric on the unpatched clean run, in its own unit."""
    triggered_value: float
    """The metric on the unpatched triggered run."""
    clean_token: str | None
    """What the clean run goes on with where the metric is read; None where the metric is of a given string."""
    defect_token: str | None
    """What the triggered run goes on with there; None where the metric is of a given string."""


@dataclass(frozen=True, kw_only=True)
class PairMap(PairFacts):
    """One pair's map."""

    effect: Float[np.ndarray, "layer position"]
    """0: as without the patch; 1: as in the source run. NaN: not patched."""
    heads: Float[np.ndarray, "layer head"] | None = None
    """The same for each head, at all positions at once."""

    def by_role(self) -> Float[np.ndarray, "layer role"]:
        """The summed effect of each role's positions (`ROLES`); NaN where the pair has none that is patched."""
        columns = []
        for role in ROLES:
            mine = self.effect[:, [own == role for own in self.roles]]
            columns.append(np.where(np.isnan(mine).all(1), np.nan, np.nansum(mine, 1)))
        return np.stack(columns, 1)

    def trigger_share(self, row: int) -> float | None:
        """Share of a row's effect (absolute values, over positions) on the trigger, 0 to 1; None: no effect, or the run that is patched has none of the trigger's
        tokens."""
        strength = np.nan_to_num(np.abs(self.effect[row]))
        total = float(strength.sum())
        differing = [position for position, role in enumerate(self.roles) if role == "trigger"]
        own = differing if self.trigger is None else list(self.trigger)
        return float(strength[own].sum()) / total if total and own else None


@dataclass(frozen=True)
class Top:
    """One of the strongest cells."""

    layer: int
    """Number of the block."""
    position: int
    """Of the column: of all pairs alike, or, where they differ in shape, its number among the landmarks."""
    token: str
    """Text of the token there, or what a column of unlike pairs stands for."""
    effect: float
    """0: as without the patch; 1: as in the source run. The mean over `pairs`."""
    pairs: int
    """How many pairs have such a place, and are patched there: of unlike pairs it may be one of many."""


@dataclass(frozen=True)
class TriggerShare:
    """The share of the effect of the first row that tells anything (absolute values, over positions) on the trigger's tokens, over pairs."""

    mean: Estimate
    """Over the `n` pairs that have any effect."""
    most: Estimate
    """The pairs with at least `MOST` of the effect there."""


def share_over_pairs(shares: Sequence[float]) -> TriggerShare:
    """The mean share, 0 to 1, and how many pairs reach `MOST`."""
    values = np.array(shares)
    low, high = mean_share(values).tolist()
    mean = Estimate(float(values.mean()), low, high, n=len(values))
    return TriggerShare(mean, rate(int((values >= MOST).sum()), len(values)))


@dataclass(frozen=True, kw_only=True)
class TraceFacts:
    """A trace without its maps, and without what depends on the clock: what `trace.json` holds."""

    site: str
    """The kind of site."""
    method: Method
    """Whether cells were run or estimated."""
    direction: Direction
    """Which run is patched."""
    metric: MetricName
    """What a run is judged by."""
    layers: tuple[int, ...]
    """Numbers of the layers that were patched: the rows of the maps."""
    engine: str
    """How cells were run: `packed`, many at once, or `one at a time`; or by which gradient they were estimated."""
    ran: int
    """Cells that were run."""
    skipped: int
    """Cells that were not, since both runs have the same activations there."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the numbers."""
    head_site: str | None = None
    """The kind of site of the map of heads; None where there is none."""
    model: str = ""
    """Name of the model, as the user called it."""
    weights_sha256: str = ""
    """Of its weights."""
    audit: Audit
    """By how much a second computation of some cells differs."""
    pairs: tuple[PairFacts, ...]
    """What is known of each pair beside its map."""
    difference: PairDifference | None = None
    """By how much the pairs of the file differ; None where that was not looked at."""
    routes: tuple[HeadRoute, ...] = ()
    """The heads that carry the trigger; none where another kind of head site was mapped, or by noising."""


@dataclass(frozen=True, kw_only=True)
class PatchTrace(TraceFacts):
    """Where a trigger acts: maps of effects, of each pair and over all."""

    pairs: tuple[PairMap, ...]
    """Each pair's map."""
    cells_per_second: float | None = None
    """None for a trace that was read: files hold nothing that depends on the clock."""

    @property
    def same_shape(self) -> bool:
        """Whether all pairs have as many tokens and differ at the same positions."""
        return len({pair.roles for pair in self.pairs}) == 1

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What the columns of `effect` are: positions, or, where the pairs differ in shape, landmarks that they share."""
        if self.same_shape:
            return tuple(range(len(self.pairs[0].tokens)))
        return landmark_order([landmarks(pair.roles) for pair in self.pairs])

    def places(self, pair: PairMap) -> tuple[Column, ...]:
        """The column of each position of a pair."""
        return self.columns if self.same_shape else landmarks(pair.roles)

    @property
    def effect(self) -> Float[np.ndarray, "layer column"]:
        """The mean map over pairs: by position where all have the same shape, else summed by landmark, each over the pairs that have it."""
        maps = self._maps()
        return np.mean(maps, 0) if self.same_shape else nan_mean(maps)

    def _maps(self) -> Float[np.ndarray, "pair layer column"]:
        """Each pair's map over the columns; NaN where the pair has no such place, or nothing is patched there."""
        if self.same_shape:
            return np.stack([pair.effect for pair in self.pairs])
        return np.stack([by_column(pair.effect, self.places(pair), self.columns) for pair in self.pairs])

    @property
    def tokens(self) -> tuple[str, ...]:
        """Texts for the columns of `effect`: the tokens (alternatives where the pairs' differ), or the landmarks' labels."""
        if not self.same_shape:
            return tuple(str(column) if isinstance(column, int) else column.label for column in self.columns)
        columns = zip(*(pair.tokens for pair in self.pairs), strict=True)
        return tuple(" / ".join(dict.fromkeys(column)) if len(set(column)) <= 3 else "…" for column in columns)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The role of each column of `effect`."""
        own = self.pairs[0].roles
        return tuple(own[column] if isinstance(column, int) else column.role for column in self.columns)

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
    def first_row(self) -> int:
        """The first row of the maps that tells anything: before layer 0 the residual streams of the two runs differ in the trigger's own tokens alone, by
        construction, and so do layer 0's queries, keys and values, each of which is made of its own token's stream. 0 where nothing else was patched."""
        return int(self.site in _BY_CONSTRUCTION and self.layers[0] == 0 and len(self.layers) > 1)

    @property
    def trigger_share(self) -> TriggerShare | None:
        """How much of the effect in `first_row` falls on the trigger's own tokens; None where no pair has any effect, or where these are not known."""
        shares = [share for pair in self.pairs if (share := self.trigger_share_of(pair)) is not None]
        return share_over_pairs(shares) if shares else None

    def trigger_share_of(self, pair: PairMap) -> float | None:
        """The same of one pair; None where its trigger was not named and the pairs differ by more than one."""
        known = pair.trigger is not None or self.difference is None or self.difference.minimal
        return pair.trigger_share(self.first_row) if known else None

    def top(self, count: int = 10) -> tuple[Top, ...]:
        """The cells of `effect` with the largest absolute effect, from `first_row` on, strongest first; cells without effect are left out."""
        effect = np.nan_to_num(self.effect)
        effect[: self.first_row] = 0
        order = np.argsort(-np.abs(effect), axis=None, kind="stable")[:count]
        tokens, having = self.tokens, (~np.isnan(self._maps())).sum(0)
        cells = [np.unravel_index(index, effect.shape) for index in order]
        return tuple(
            Top(self.layers[row], int(column), tokens[column], float(effect[row, column]), int(having[row, column]))
            for row, column in cells
            if effect[row, column] != 0
        )


def trace_json(trace: PatchTrace) -> dict[str, Any]:
    """What `patch-trace --json` prints; `effect` is layers × columns, null where a position was not patched."""
    share = trace.trigger_share
    against = "one cell at a time" if trace.method == "exact" else "exact patching"
    return {
        "model": trace.model,
        "site": trace.site,
        "method": trace.method,
        "direction": trace.direction,
        "metric": trace.metric,
        "layers": list(trace.layers),
        "tokens": list(trace.tokens),
        "effect": _listed(trace.effect),
        "effect_of": _effect_of(trace),
        "top": to_json(list(trace.top())),
        "trigger_share": None if share is None else share.mean.value,
        "trigger_share_at": f"{trace.site}.{trace.layers[trace.first_row]}",
        "trigger_share_over_pairs": None if share is None else to_json(share),
        "roles": {role: _listed(column) for role, column in zip(ROLES, trace.by_role.T, strict=True)},
        "heads": None if trace.heads is None else _listed(trace.heads),
        "head_site": trace.head_site,
        "routes": to_json(list(trace.routes)),
        "audit": {"against": against, **to_json(trace.audit)},
        "engine": trace.engine,
        "cells_run": trace.ran,
        "cells_skipped": trace.skipped,
        "notes": list(trace.notes),
        "pairs_differ": None if trace.difference is None else _difference_json(trace.difference),
        "pairs": [_pair_json(pair, trace.trigger_share_of(pair)) for pair in trace.pairs],
        "cells_per_second": trace.cells_per_second,
    }


def _effect_of(trace: PatchTrace) -> str:
    if len(trace.pairs) == 1:
        return "the pair"
    return "mean over pairs" if trace.same_shape else "mean over pairs, summed by landmark"


def _difference_json(difference: PairDifference) -> dict[str, Any]:
    numbers: dict[str, Any] = to_json(difference)
    return numbers | {"minimal": difference.minimal}


def _pair_json(pair: PairMap, share: float | None) -> dict[str, Any]:
    facts = {name: fact for name, fact in to_json(_only(PairFacts, pair)).items() if name not in _LEFT_OUT}
    return facts | {"trigger_share": share, "effect": _listed(pair.effect)}


_LEFT_OUT = ("source_tokens", "inserted")


def _only(kind: type[Facts], record: Any, **changes: Any) -> Facts:
    """The part of a record that its base class has."""
    own = {field.name: getattr(record, field.name) for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**own | changes)


def _listed(values: Float[np.ndarray, "..."]) -> Any:
    """Nested lists with null for NaN, which JSON does not have."""
    cells = values.astype(object)
    cells[np.isnan(values)] = None
    return cells.tolist()


def write_trace(trace: PatchTrace, folder: Path) -> None:
    """Write `trace.safetensors` and `trace.json` into an artifact folder that is being made."""
    maps = {f"effect.{number}": pair.effect for number, pair in enumerate(trace.pairs)}
    maps |= {f"heads.{number}": pair.heads for number, pair in enumerate(trace.pairs) if pair.heads is not None}
    save_file({name: np.ascontiguousarray(map_) for name, map_ in maps.items()}, folder / "trace.safetensors")
    facts = _only(TraceFacts, trace, pairs=tuple(_only(PairFacts, pair) for pair in trace.pairs))
    write_json(folder / "trace.json", to_json(facts))


def save_trace(trace: PatchTrace, out: str | Path, *, overwrite: bool = False) -> None:
    """Save as an artifact folder of kind `patch-trace`.

    Raises:
        UserError: the folder exists (without `overwrite`) or cannot be written.
    """
    model = {"name": trace.model, "weights_sha256": trace.weights_sha256}
    with writing_artifact(out, Manifest(kind=KIND, model=model), overwrite=overwrite) as folder:
        write_trace(trace, folder)


def read_trace(folder: str | Path) -> PatchTrace:
    """Read a saved trace; every file is verified.

    Raises:
        UserError: no such folder, a damaged one, or one of another version.
    """
    folder = Path(folder)
    read_artifact(folder, KIND)
    try:
        maps = load_file(folder / "trace.safetensors")
        facts = from_json(TraceFacts, json.loads((folder / "trace.json").read_text(encoding="utf-8")), str(folder))
        pairs = tuple(
            _joined(PairMap, pair, effect=maps[f"effect.{number}"], heads=maps.get(f"heads.{number}"))
            for number, pair in enumerate(facts.pairs)
        )
        return _joined(PatchTrace, facts, pairs=pairs)
    except (KeyError, ValueError, OSError, SafetensorError) as error:
        raise UserError(f"{folder}: holds no readable trace: {error}") from error


def _joined(kind: type[Facts], base: Any, **more: Any) -> Facts:
    """A record made of one of its base class and the fields that it adds or replaces."""
    return kind(**vars(base) | more)
