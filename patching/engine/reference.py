"""Activation patching by its definition: one cell, one whole forward pass, through any backend and any architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, parse_site
from patching.engine.cells import Cell
from patching.metric import chosen
from patching.pairs import Sides


@torch.no_grad()
def read_sites(
    model: HookedModel, ids: tuple[int, ...], sites: Sequence[str]
) -> dict[str, Float[Tensor, "position _"]]:
    """Read activations of one unpatched run.

    Args:
        model: the model.
        ids: token ids of the run.
        sites: names of sites.

    Returns:
        By site its activation [position width], on the model's device; of a pattern [query key].

    Raises:
        UserError: a site that the model lacks.
    """
    run = model.run(torch.tensor([ids]), reads={site: lambda value: value[0].detach().clone() for site in sites})
    # Of a model spread over devices, sites lie where their blocks are; they are brought to one place.
    return {site: value.to(model.device) for site, value in run.activations.items()}


def replacements(
    sides: Sides, site: str, source: Float[Tensor, "source_position _"]
) -> Float[Tensor, "patched_position _"]:
    """What each position of the patched run is replaced by; rows of positions without a counterpart mean nothing.

    The columns of a pattern are positions too, and are aligned in the same way. A token that only the patched run has gets no
    attention, and what the source run paid to tokens that only it has is lost.
    """
    alignment = sides.alignment
    rows = source[[other or 0 for other in alignment.counterparts]]
    if parse_site(site).kind != "pattern":
        return rows
    columns = rows[:, [other or 0 for other in alignment.counterparts]]
    shared = [
        other is not None and not inserted
        for other, inserted in zip(alignment.counterparts, alignment.inserted, strict=True)
    ]
    return (columns * torch.tensor(shared, device=columns.device)).tril()


@torch.no_grad()
def patched_value(
    model: HookedModel, sides: Sides, cell: Cell, source: Mapping[str, Float[Tensor, "position _"]]
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
    edits: dict[str, Callable[[Tensor], Tensor]] = {}
    for patch in cell:
        places = [position for position in patch.positions if counterparts[position] is not None]
        edit = _replacing(places, replacements(sides, patch.site, source[patch.site])[places], patch.keys)
        earlier = edits.get(patch.site)
        edits[patch.site] = edit if earlier is None else _one_after_another(earlier, edit)
    logits = model.run(torch.tensor([sides.patched]), edits=edits).logits
    assert logits is not None  # no last layer was given
    metric = sides.pair.metric
    return float(metric(chosen(logits[:, -metric.tail :].float(), metric.tokens))[0])


def _one_after_another(
    first: Callable[[Tensor], Tensor], then: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Two patches of one site: the model takes one edit of each."""
    return lambda activation: then(first(activation))


def _replacing(
    places: list[int], values: Float[Tensor, "edited _"], keys: tuple[int, ...] | None
) -> Callable[[Tensor], Tensor]:
    columns = list(range(values.shape[1]) if keys is None else keys)

    def edit(activation: Tensor) -> Tensor:
        edited = activation.clone()
        edited[0, torch.tensor(places)[:, None], torch.tensor(columns)] = values[:, columns].to(edited)
        return edited

    return edit
