"""What can be done to a model: replace activations while it runs, or replace weights for good.

Anything that maps an activation to one of the same shape is an edit: a projection, an eraser, a sparse autoencoder that
drops a latent. `Edit("mine", {"resid_post.2": function})` is all that it takes to stand on the scoreboard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from triggerlens import UserError

Replace = Callable[[Tensor], Tensor]
"""Maps a site's activation (mostly [batch position d_model]) to its replacement of the same shape, not in place."""
PlacedReplace = Callable[[Tensor, Bool[Tensor, "batch prompt_position"]], Tensor]
"""The same, told where in each prompt the trigger stands. New tokens follow the prompt's; see `reach`."""


@dataclass(frozen=True)
class Edit:
    """Replaces activations, wherever the trigger may stand."""

    name: str
    sites: Mapping[str, Replace]

    def at(self, places: Bool[Tensor, "batch prompt_position"]) -> dict[str, Replace]:
        """What `HookedModel.run` and `generate` take for prompts with the trigger at `places`."""
        return {site: _checked(self.name, site, replace) for site, replace in self.sites.items()}


@dataclass(frozen=True)
class PlacedEdit:
    """Replaces activations at the trigger's place, which must therefore be known for each prompt."""

    name: str
    sites: Mapping[str, PlacedReplace]

    def at(self, places: Bool[Tensor, "batch prompt_position"]) -> dict[str, Replace]:
        """As `Edit.at`."""

        def bound(replace: PlacedReplace) -> Replace:
            return lambda value: replace(value, places)

        return {site: _checked(self.name, site, bound(replace)) for site, replace in self.sites.items()}


@dataclass(frozen=True)
class WeightEdit:
    """Replaces weights: the edited model is an ordinary checkpoint."""

    name: str
    weights: Mapping[str, Tensor]
    """The new value of each parameter that changes, by its name in the plain `transformers` model."""
    untied: bool = False
    """Whether input and output embedding, one matrix in the model, must become two."""
    facts: Mapping[str, float | int | str] = field(default_factory=dict)
    """How it was made: rank, norm, losses."""


ActivationEdit = Edit | PlacedEdit
AnyEdit = Edit | PlacedEdit | WeightEdit
UNEDITED = Edit("unedited", {})


def reach(places: Bool[Tensor, "batch prompt_position"], positions: int) -> Bool[Tensor, "batch position"]:
    """`places` for an activation of so many positions: the prompt's, and then new tokens, none of which is the trigger's.

    With a key-value cache each step after the first sees new tokens alone.
    """
    batch, prompt = places.shape
    if positions < prompt:
        return torch.zeros(batch, positions, dtype=torch.bool, device=places.device)
    return torch.nn.functional.pad(places, (0, positions - prompt))


def _checked(name: str, site: str, replace: Replace) -> Replace:
    """An edit that may not return anything but a tensor of the same shape, all finite."""

    def edit(value: Tensor) -> Tensor:
        edited = replace(value)
        if not isinstance(edited, Tensor) or edited.shape != value.shape:
            found = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
            raise UserError(
                f"the edit {name!r} at {site} returned {found}; it must return a tensor of shape {tuple(value.shape)}"
            )
        if not edited.isfinite().all():
            raise UserError(f"the edit {name!r} at {site} returned NaN or infinite values")
        return edited

    return edit
