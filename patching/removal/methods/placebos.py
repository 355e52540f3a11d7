"""Placebos: edits of the same strength that know nothing of the trigger. A removal that they achieve too is none.

For an edit of activations: each token is moved as far as the edit would have moved it, along one random direction a site.
For an edit of weights: each matrix is changed by a random matrix of the same rank and the same Frobenius norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hooked import HookedModel
from patching.removal.edits import ActivationEdit, Edit, PlacedEdit, PlacedReplace, Replace, WeightEdit
from patching.removal.weights import plain_copy


def same_move(edit: ActivationEdit, seed: int) -> ActivationEdit:
    """The placebo of an edit of activations."""
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**31, (len(edit.sites),), generator=generator).tolist()
    name = f"placebo: as far as {edit.name}"
    if isinstance(edit, PlacedEdit):
        return PlacedEdit(
            name, {s: _moved_placed(r, one) for (s, r), one in zip(edit.sites.items(), seeds, strict=True)}
        )
    return Edit(name, {s: _moved(r, one) for (s, r), one in zip(edit.sites.items(), seeds, strict=True)})


def random_update(model: HookedModel, edit: WeightEdit, rank: int, seed: int) -> WeightEdit:
    """The placebo of an edit of weights."""
    generator = torch.Generator().manual_seed(seed)
    plain = dict(plain_copy(model).named_parameters())
    weights = {}
    for name, value in edit.weights.items():
        usual = plain[name].detach()
        size = torch.linalg.vector_norm((value - usual).double())
        if usual.ndim == 2:
            left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in usual.shape)
            update = left @ right.T
        else:
            update = torch.randn(usual.shape, generator=generator, dtype=torch.float64)
        update = update.to(usual.device) * (size / torch.linalg.vector_norm(update).to(usual.device))
        weights[name] = (usual.double() + update).to(usual.dtype)
    return WeightEdit(f"placebo: as large as {edit.name}", weights, edit.untied, {"rank": rank})


def _moved(replace: Replace, seed: int) -> Replace:
    return lambda value: value + _move(value, replace(value), seed)


def _moved_placed(replace: PlacedReplace, seed: int) -> PlacedReplace:
    return lambda value, places: value + _move(value, replace(value, places), seed)


def _move(value: Tensor, edited: Tensor, seed: int) -> Tensor:
    """A move as long as the edit's, token by token."""
    direction = torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(seed)).to(value)
    length = torch.linalg.vector_norm((edited - value).float(), dim=-1, keepdim=True)
    return (length * direction.float() / direction.float().norm()).to(value.dtype)
