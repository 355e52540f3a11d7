"""Directional ablation: what a triggered prompt's last token has more of than its twin's is projected out.

1. At each layer the direction is the difference of the mean residuals (triggered less clean) at the prompt's last token.
2. Of the layers' directions the one is chosen whose ablation at every layer brings triggered prompts furthest back
   (`patching.removal.fit.Parting`), on pairs of the fitting side.
3. It is projected out of the residual stream after that layer, or out of everything that is written to the stream.

Arditi et al. 2024, "Refusal in language models is mediated by a single direction", https://arxiv.org/abs/2406.11717.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel
from patching.removal.edits import ActivationEdit
from patching.removal.fit import Fit, Parting
from patching.removal.methods.method import Method, usual_placebo
from patching.removal.subject import Subject

_TRIED_ON = 24
"""Pairs on which the layers' directions are compared."""


@dataclass(frozen=True)
class LayerDirection:
    """A unit vector of the residual stream, and the layer after which it was found."""

    vector: Float[Tensor, "d_model"]
    layer: int


def mean_difference_directions(fit: Fit) -> Float[Tensor, "layer d_model"]:
    """Step 1, unit vectors."""
    triggered = fit.unedited.residuals([pair.triggered for pair in fit.pairs])
    clean = fit.unedited.residuals([pair.clean for pair in fit.pairs])
    difference = (triggered.double() - clean.double()).mean(0)
    length = torch.linalg.vector_norm(difference, dim=-1, keepdim=True).clamp_min(1e-12)
    return (difference / length).to(fit.model.device, fit.model.dtype)


def chosen_direction(fit: Fit) -> LayerDirection:
    """Steps 1 and 2; several methods of one seed ask for it."""
    return fit.once(_choose)


def _choose(fit: Fit) -> LayerDirection:
    directions = mean_difference_directions(fit)
    parting = Parting.of(fit.unedited, fit.pairs[:_TRIED_ON], fit.answers)
    scores = [
        0.0 if parting is None else parting.restored(_under(fit, everywhere(fit.model, vector)))
        for vector in directions
    ]
    layer = max(range(len(scores)), key=lambda index: (scores[index], -index))
    return LayerDirection(directions[layer], layer)


def _under(fit: Fit, edit: ActivationEdit) -> Subject:
    return Subject(fit.model, edit, fit.config.batch_size)


def at_layer(fit: Fit) -> ActivationEdit:
    """Step 3, after the chosen layer alone."""
    chosen = chosen_direction(fit)
    return ActivationEdit("direction at its layer", {f"resid_post.{chosen.layer}": projecting_out(chosen.vector)})


def at_every_layer(fit: Fit) -> ActivationEdit:
    """Step 3, from everything that is written."""
    return everywhere(fit.model, chosen_direction(fit).vector)


def everywhere(model: HookedModel, vector: Float[Tensor, "d_model"]) -> ActivationEdit:
    """Project a direction out of the embeddings and of what each attention and MLP adds: the stream never has it."""
    sites = ["resid_pre.0", *model.sites("attn_out"), *model.sites("mlp_out")]
    return ActivationEdit("direction everywhere", dict.fromkeys(sites, projecting_out(vector)))


def projecting_out(vector: Float[Tensor, "d_model"]) -> Callable[[Tensor], Tensor]:
    """Maps activations to their part orthogonal to a unit vector."""

    def project(value: Tensor) -> Tensor:
        unit = vector.to(value)
        return value - (value @ unit)[..., None] * unit

    return project


METHODS = (
    Method("direction-layer", at_layer),
    Method("direction-everywhere", at_every_layer, usual_placebo),
)
