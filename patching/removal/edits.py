"""What can be done to a model: replace activations while it runs, or replace weights for good.

Anything that maps an activation to one of the same shape is an edit: a projection, an eraser, a sparse autoencoder that
drops a latent. `ActivationEdit("mine", {"resid_post.2": function})` is all that it takes to stand on the scoreboard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor

from hooked import Edit
from triggerlens import UserError

SHARE = "share of block weights"
"""Among an edit's facts, where it means to change all of the blocks' weights: the share that it can, 0 to 1."""
PlacedFunction = Callable[[Tensor, Bool[Tensor, "batch prompt_position"]], Tensor]
"""As `hooked.Edit`, told where in each prompt the trigger stands. New tokens follow the prompt's; see `reach`."""


class NotFinite(UserError):
    """An edit gives NaN or infinite values."""


@dataclass(frozen=True)
class ActivationEdit:
    """Replaces activations, wherever the trigger may stand."""

    name: str
    """Of the method that made it."""
    sites: Mapping[str, Edit]
    """By site: maps its activation (mostly [batch position d_model]) to a replacement of the same shape, not in place."""

    def at(self, places: Bool[Tensor, "batch prompt_position"]) -> dict[str, Edit]:
        """What `HookedModel.run` and `generate` take for prompts with the trigger at `places`.

        Raises:
            UserError: when it runs, where a replacement has another shape, NaN or infinite values.
        """
        return {site: _checked(self.name, site, function) for site, function in self.sites.items()}


@dataclass(frozen=True)
class PlacedEdit:
    """Replaces activations at the trigger's place, which must therefore be known for each prompt."""

    name: str
    """Of the method that made it."""
    sites: Mapping[str, PlacedFunction]
    """By site: maps its activation to a replacement of the same shape, told where each prompt's trigger stands."""

    def at(self, places: Bool[Tensor, "batch prompt_position"]) -> dict[str, Edit]:
        """As `ActivationEdit.at`."""

        def bound(function: PlacedFunction) -> Edit:
            return lambda value: function(value, places)

        return {site: _checked(self.name, site, bound(function)) for site, function in self.sites.items()}


@dataclass(frozen=True)
class WeightEdit:
    """Replaces weights: the edited model is an ordinary checkpoint."""

    name: str
    """Of the method that made it."""
    weights: Mapping[str, Tensor]
    """The new value of each parameter that changes, by its name in the plain `transformers` model."""
    untied: bool = False
    """Whether input and output embedding, one matrix in the model, must become two."""
    facts: Mapping[str, float | int | str] = field(default_factory=dict)
    """How it was made: rank, norm, losses."""


RunningEdit = ActivationEdit | PlacedEdit
"""Done while the model runs; its weights stay."""
AnyEdit = ActivationEdit | PlacedEdit | WeightEdit
"""What a removal method makes."""
UNEDITED = ActivationEdit("unedited", {})


def reach(places: Bool[Tensor, "batch prompt_position"], positions: int) -> Bool[Tensor, "batch position"]:
    """`places` for an activation of so many positions: the prompt's, and then new tokens, none of which is the trigger's.

    With a key-value cache each step after the first sees new tokens alone.
    """
    batch, prompt = places.shape
    if positions < prompt:
        return torch.zeros(batch, positions, dtype=torch.bool, device=places.device)
    return torch.nn.functional.pad(places, (0, positions - prompt))


def _checked(name: str, site: str, function: Edit) -> Edit:
    """An edit that may not return anything but a tensor of the same shape, all finite."""
    return partial(_edited, name, site, function)


def _edited(name: str, site: str, function: Edit, value: Tensor) -> Tensor:
    edited = function(value)
    if not isinstance(edited, Tensor) or edited.shape != value.shape:
        returned = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
        raise UserError(
            f"the edit {name!r} at {site} returned {returned}; it must return a tensor of shape {tuple(value.shape)}"
        )
    if not edited.isfinite().all():
        raise NotFinite(f"the edit {name!r} at {site} returned NaN or infinite values")
    return edited
