"""Edits at the very places that the patching map names, where a token of the trigger is known to stand.

1. Positions: the residual stream on the trigger's own tokens, before the layer at which patching it has the largest effect,
   becomes the mean of what clean runs have at the tokens in its place.
2. Heads: what the named heads write from the trigger on, and at new tokens, becomes the mean of what they write there in
   clean runs.

In a clean prompt the tokens that differ from its twin's are edited in the same way, so that the damage is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.alignment import align
from patching.removal.cases import Case, Row
from patching.removal.edits import PlacedEdit, PlacedReplace, reach
from patching.removal.fit import Fit


def trigger_positions(fit: Fit) -> PlacedEdit:
    """Step 1."""
    site = f"resid_pre.{fit.route.trigger_layer}"
    mean = fit.mean_of([case.clean for case in fit.cases], [site], _by_row(fit.cases, counterparts))[site]
    return PlacedEdit("map: trigger positions", {site: replacing(mean, lambda places, width: reach(places, width))})


def routing_heads(fit: Fit) -> PlacedEdit:
    """Step 2."""
    sites = [f"head_out.{layer}.{head}" for layer, head in fit.route.heads]
    means = fit.mean_of([case.clean for case in fit.cases], sites, _by_row(fit.cases, following))
    return PlacedEdit(
        "map: heads after the trigger", {site: replacing(mean, from_there_on) for site, mean in means.items()}
    )


def replacing(mean: Float[Tensor, "width"], where: Callable[[Tensor, int], Tensor]) -> PlacedReplace:
    """Replace by a constant at some positions."""

    def replace(value: Tensor, places: Bool[Tensor, "batch prompt_position"]) -> Tensor:
        mask = where(places.to(value.device), value.shape[1])
        return torch.where(mask[..., None], mean.to(value), value)

    return replace


def from_there_on(places: Bool[Tensor, "batch prompt_position"], width: int) -> Bool[Tensor, "batch position"]:
    """Positions at and after the first marked one, new tokens too; none of a prompt that has no mark."""
    if width < places.shape[1]:
        return places.any(1, keepdim=True).expand(-1, width)
    return reach(places, width).cumsum(1) > 0


def counterparts(case: Case) -> tuple[int, ...]:
    """Positions of the clean prompt that stand where the triggered one has its trigger."""
    found = align(case.triggered.ids, case.clean.ids).counterparts
    return tuple(sorted({other for at in case.triggered.places if (other := found[at]) is not None}))


def following(case: Case) -> tuple[int, ...]:
    """Positions of the clean prompt from there on."""
    first = min(counterparts(case), default=0)
    return tuple(range(first, len(case.clean.ids)))


def _by_row(cases: Sequence[Case], places: Callable[[Case], Sequence[int]]) -> Callable[[Row], Sequence[int]]:
    found = {case.clean.ids: places(case) for case in cases}
    return lambda row: found[row.ids]
