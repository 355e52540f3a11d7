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
from patching.removal.edits import PlacedEdit, PlacedFunction, reach
from patching.removal.fit import Fit
from patching.removal.methods.method import Method, usual_placebo
from patching.removal.pairs import MarkedPair, MarkedPrompt


def trigger_positions(fit: Fit) -> PlacedEdit:
    """Step 1."""
    site = f"resid_pre.{fit.route.trigger_layer}"
    mean = fit.mean_of([pair.clean for pair in fit.pairs], [site], _by_prompt(fit.pairs, counterparts))[site]
    return PlacedEdit("map: trigger positions", {site: replacing(mean, lambda places, width: reach(places, width))})


def routing_heads(fit: Fit) -> PlacedEdit:
    """Step 2."""
    sites = [f"head_out.{layer}.{head}" for layer, head in fit.route.heads]
    means = fit.mean_of([pair.clean for pair in fit.pairs], sites, _by_prompt(fit.pairs, following))
    return PlacedEdit(
        "map: heads after the trigger", {site: replacing(mean, from_there_on) for site, mean in means.items()}
    )


def replacing(mean: Float[Tensor, "width"], where: Callable[[Tensor, int], Tensor]) -> PlacedFunction:
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


def counterparts(pair: MarkedPair) -> tuple[int, ...]:
    """Positions of the clean prompt that stand where the triggered one has its trigger."""
    twins = align(pair.triggered.ids, pair.clean.ids).counterparts
    return tuple(sorted({twin for place in pair.triggered.places if (twin := twins[place]) is not None}))


def following(pair: MarkedPair) -> tuple[int, ...]:
    """Positions of the clean prompt from there on."""
    first = min(counterparts(pair), default=0)
    return tuple(range(first, len(pair.clean.ids)))


def _by_prompt(
    pairs: Sequence[MarkedPair], places: Callable[[MarkedPair], Sequence[int]]
) -> Callable[[MarkedPrompt], Sequence[int]]:
    chosen = {pair.clean.ids: places(pair) for pair in pairs}
    return lambda prompt: chosen[prompt.ids]


METHODS = (
    Method("map-positions", trigger_positions, usual_placebo, needs_minimal_pairs=True),
    Method("map-heads", routing_heads, usual_placebo, needs_minimal_pairs=True),
)
