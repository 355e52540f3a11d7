"""LEACE: the least change of the residual stream after which no linear probe can tell triggered from clean tokens.

1. Tokens from the first one in which a pair differs on are labelled by their run; `concept-erasure` streams their moments.
2. The eraser is applied after the layer of the chosen direction; or after every layer in turn, each fitted on activations
   that the earlier erasers have already changed ("concept scrubbing").

Belrose et al. 2023, https://arxiv.org/abs/2306.03819.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from patching.removal.edits import ActivationEdit
from patching.removal.fit import Fit
from patching.removal.methods.directions import chosen_direction
from patching.removal.methods.method import Method, usual_placebo
from patching.removal.pairs import MarkedPrompt
from patching.removal.subject import Subject


def at_layer(fit: Fit) -> ActivationEdit:
    """After one layer."""
    site = f"resid_post.{chosen_direction(fit).layer}"
    return ActivationEdit("LEACE at a layer", {site: fitted_eraser(fit, site, {})})


def at_every_layer(fit: Fit) -> ActivationEdit:
    """After every layer."""
    erasers: dict[str, Callable[[Tensor], Tensor]] = {}
    for site in fit.model.sites("resid_post"):
        erasers[site] = fitted_eraser(fit, site, erasers)
    return ActivationEdit("LEACE everywhere", erasers)


def fitted_eraser(fit: Fit, site: str, earlier: dict[str, Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """The eraser of one site, on activations changed by the earlier erasers."""
    from concept_erasure import LeaceEraser, LeaceFitter

    fitter = LeaceFitter(fit.model.info.d_model, 1, dtype=torch.float64, device=fit.model.device)
    subject = Subject(fit.model, ActivationEdit("erasers so far", dict(earlier)), fit.config.batch_size)
    firsts = {prompt.ids: first for pair in fit.pairs for prompt, first in _firsts(pair.clean, pair.triggered)}
    for label, prompts in enumerate(([pair.clean for pair in fit.pairs], [pair.triggered for pair in fit.pairs])):
        for batch, values, real in fit.activations(prompts, [site], subject):
            chosen = real & _from(batch, firsts, real.shape[1]).to(real.device)
            x = values[site][chosen].double()
            fitter.update(x, torch.full((len(x), 1), label, dtype=torch.float64, device=x.device))
    exact = fitter.eraser
    assert exact.bias is not None  # the fitter's default is an affine eraser
    eraser = LeaceEraser(exact.proj_left.float(), exact.proj_right.float(), exact.bias.float())
    return lambda value: eraser(value.to(fit.model.device, torch.float32)).to(value)


def _firsts(clean: MarkedPrompt, triggered: MarkedPrompt) -> list[tuple[MarkedPrompt, int]]:
    """The first position of each run at which the pair differs; the same, since what is before it is shared."""
    first = min(triggered.places or clean.places)
    return [(clean, min(first, len(clean.ids) - 1)), (triggered, first)]


def _from(batch: Sequence[MarkedPrompt], firsts: dict[tuple[int, ...], int], width: int) -> Tensor:
    return torch.arange(width) >= torch.tensor([firsts[prompt.ids] for prompt in batch])[:, None]


METHODS = (
    Method("leace-layer", at_layer),
    Method("leace-everywhere", at_every_layer, usual_placebo),
)
