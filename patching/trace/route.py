"""The trigger's way through the network: which heads carry it, from which token, to which.

1. The heads with the largest effect at all positions at once are taken, averaged over the pairs.
2. Each is patched at one position at a time: where its output matters is where it *writes* (exact, causal).
3. Its attention from the position where it writes most, in the triggered run, tells what it *reads* (an observation, no
   intervention: a head can attend to a token and take nothing from it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from hooked import HookedModel
from patching.engine.cells import Patch
from patching.engine.exact import ExactResult, exact_effects
from patching.pairs import PatchPair
from patching.trace.landmarks import Column, by_column

_WORTH = 0.05
"""A head whose effect is smaller carries nothing worth drawing."""


@dataclass(frozen=True)
class HeadRoute:
    """One head's part in the route, averaged over pairs; `writes` and `reads` go with the columns of the trace. Both are over all pairs, of which one
    without a column's place counts as 0, so that each adds up to the whole and a place that few pairs have weighs little."""

    layer: int
    """Number of the block, from 0."""
    head: int
    """Number of the head, from 0."""
    effect: float
    """Patched at all positions at once."""
    writes: tuple[float, ...]
    """The effect of patching it at the positions of each column, one at a time, summed."""
    reads: tuple[float, ...] | None
    """The share of its attention that each column gets, 0 to 1; None where the model has no attention patterns."""

    @property
    def column_written(self) -> int:
        """Where its output matters most."""
        return int(np.abs(self.writes).argmax())

    @property
    def column_read(self) -> int | None:
        """What it attends to most from there."""
        return None if self.reads is None else int(np.argmax(self.reads))


@dataclass(frozen=True)
class _Head:
    """Step 1's outcome."""

    layer: int
    head: int
    effect: float


def strongest_heads(effects: Float[np.ndarray, "layer head"], count: int) -> list[tuple[int, int]]:
    """(row, head) of the heads worth drawing, strongest first."""
    strength = np.nan_to_num(np.abs(effects))
    order = np.argsort(-strength, axis=None, kind="stable")[:count]
    places = [divmod(int(index), effects.shape[1]) for index in order]
    return [(row, head) for row, head in places if strength[row, head] >= _WORTH]


def head_routes(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    effects: Float[np.ndarray, "layer head"],
    layers: Sequence[int],
    places: Sequence[Sequence[Column]],
    columns: Sequence[Column],
    *,
    count: int = 6,
    fast: bool = True,
    audited: int = 4,
    row_budget: int | None = None,
) -> tuple[HeadRoute, ...]:
    """The heads that carry the trigger, by denoising.

    Args:
        model: the model.
        pairs: the pairs.
        effects: of each head at all positions at once, the mean over pairs.
        layers: the layer of each row of `effects`.
        places: for each pair, the column of each position of its triggered run.
        columns: the columns, in order.
        count: the most heads that are taken.
        fast, audited, row_budget: as of `exact_effects`.
    """
    heads = [_Head(layers[row], head, float(effects[row, head])) for row, head in strongest_heads(effects, count)]
    if not heads:
        return ()
    exactly = partial(exact_effects, fast=fast, audited=audited, row_budget=row_budget)
    writes, reads = [], []
    for pair, own, values in zip(pairs, places, _effects(model, pairs, heads, exactly), strict=True):
        writes.append(np.nan_to_num(by_column(values, own, columns)))
        if "pattern" in model.kinds:
            attention = _attention(model, pair, heads, np.abs(values).argmax(1).tolist())
            reads.append(np.nan_to_num(by_column(attention, own, columns)))
    return tuple(
        HeadRoute(head.layer, head.head, head.effect, _mean(writes, row), _mean(reads, row) if reads else None)
        for row, head in enumerate(heads)
    )


def _effects(
    model: HookedModel, pairs: Sequence[PatchPair], heads: Sequence[_Head], exactly: Callable[..., ExactResult]
) -> list[Float[np.ndarray, "head position"]]:
    """Step 2, for each pair."""
    sites = [f"head_out.{head.layer}.{head.head}" for head in heads]
    cells = [
        [(Patch(site, (position,)),) for site in sites for position in range(len(pair.triggered))] for pair in pairs
    ]
    patched = exactly(model, pairs, cells, "denoising")
    return [np.nan_to_num(values.reshape(len(heads), -1)) for values in patched.effects]


@torch.no_grad()
def _attention(
    model: HookedModel, pair: PatchPair, heads: Sequence[_Head], positions: Sequence[int]
) -> Float[np.ndarray, "head position"]:
    """Step 3: each head's attention from one position of the triggered run."""
    sites = [f"pattern.{head.layer}.{head.head}" for head in heads]
    last = max(head.layer for head in heads)
    patterns = model.run(torch.tensor([pair.triggered]), reads=sites, last_layer=last).activations
    rows = [patterns[site][0, position].double().cpu() for site, position in zip(sites, positions, strict=True)]
    return torch.stack(rows).numpy()


def _mean(tables: Sequence[Float[np.ndarray, "head column"]], row: int) -> tuple[float, ...]:
    return tuple(np.mean([table[row] for table in tables], 0).tolist())
