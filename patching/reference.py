"""Activation patching by its definition: one cell, one whole forward pass, through any backend and any architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel
from patching.cells import Cell
from patching.metric import chosen
from patching.pairs import Sides


@torch.no_grad()
def read_sites(
    model: HookedModel, ids: tuple[int, ...], sites: list[str]
) -> dict[str, Float[Tensor, "position d_model"]]:
    """Activations of one run at every position of the sites."""
    run = model.run(torch.tensor([ids]), reads={site: lambda value: value[0].detach().clone() for site in sites})
    return run.activations


@torch.no_grad()
def patched_value(
    model: HookedModel, sides: Sides, cell: Cell, source: Mapping[str, Float[Tensor, "position d_model"]]
) -> float:
    """The metric of one patched run: the definition that every faster way must agree with.

    Args:
        model: the model.
        sides: the pair, and which of its runs is patched.
        cell: what is patched; positions without a counterpart are left alone.
        source: activations of the source run, by site.

    Raises:
        UserError: a site that the model lacks.
    """
    counterparts = sides.alignment.counterparts
    edits = {}
    for patch in cell:
        places = [at for at in patch.positions if counterparts[at] is not None]
        origins = [counterparts[at] for at in places]
        edits[patch.site] = _replacing(places, source[patch.site][origins])
    logits = model.run(torch.tensor([sides.patched]), edits=edits).logits
    assert logits is not None  # no last layer was given
    metric = sides.pair.metric
    return float(metric(chosen(logits[:, -metric.tail :].float(), metric.tokens))[0])


def _replacing(places: list[int], values: Float[Tensor, "edited d_model"]) -> Callable[[Tensor], Tensor]:
    def edit(activation: Tensor) -> Tensor:
        edited = activation.clone()
        edited[0, places] = values.to(edited)
        return edited

    return edit
