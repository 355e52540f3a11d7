"""The oracle: attention from every later token to the trigger's own tokens cut, in every head of every layer.

It knows what no removal knows, where the trigger is, and leaves the model nothing of it but its own tokens' positions. What
the model then does bounds what can be had by hiding the trigger; an edit that puts a clean value in its place can do better.
The attention that is cut goes to the other tokens in proportion, which is what a mask does.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel
from patching.removal.edits import PlacedEdit, reach


def cut_attention(model: HookedModel) -> PlacedEdit:
    """The oracle as an edit.

    Raises:
        UserError: the model's attention patterns cannot be read.
    """
    return PlacedEdit("oracle: attention to the trigger cut", dict.fromkeys(model.sites("pattern"), without_trigger))


def without_trigger(
    pattern: Float[Tensor, "batch query key"], places: Bool[Tensor, "batch prompt_position"]
) -> Float[Tensor, "batch query key"]:
    """The pattern with the trigger's columns emptied for every other token's query, each row summing to what it did."""
    places = places.to(pattern.device)
    keys = reach(places, pattern.shape[2])[:, None, :]
    queries = reach(places, pattern.shape[1])[:, :, None]
    kept = pattern.masked_fill(keys & ~queries, 0)
    return kept * pattern.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(pattern.dtype).tiny)
