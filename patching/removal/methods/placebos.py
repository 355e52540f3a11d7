"""Placebos: edits of the same strength that know nothing of the trigger. A removal that they achieve too is none.

For an edit of activations: each token is moved as far as the edit would have moved it, along one random direction a site.
For an edit of weights: each matrix is changed by a random matrix of the same rank and the same Frobenius norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hooked import Edit
from patching.removal.edits import ActivationEdit, PlacedEdit, PlacedFunction, RunningEdit, WeightEdit


def same_move(edit: RunningEdit, seed: int) -> RunningEdit:
    """The placebo of an edit of activations."""
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**31, (len(edit.sites),), generator=generator).tolist()
    name = f"placebo: as far as {edit.name}"
    if isinstance(edit, PlacedEdit):
        placed = zip(edit.sites.items(), seeds, strict=True)
        return PlacedEdit(name, {site: _moved_placed(function, own) for (site, function), own in placed})
    functions = zip(edit.sites.items(), seeds, strict=True)
    return ActivationEdit(name, {site: _moved(function, own) for (site, function), own in functions})


def random_update(original: Mapping[str, Tensor], edit: WeightEdit, rank: int, seed: int) -> WeightEdit:
    """The placebo of an edit of weights.

    Args:
        original: the unedited value of each parameter, by name.
        edit: what it is the placebo of.
        rank: of the change of each matrix.
        seed: of the random matrices.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in edit.weights.items():
        usual = original[name]
        # A model may be spread over devices, and an edit that was kept lies on the CPU.
        size = torch.linalg.vector_norm((value.to(usual.device) - usual).double())
        if usual.ndim == 2:
            left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in usual.shape)
            update = left @ right.T
        else:
            update = torch.randn(usual.shape, generator=generator, dtype=torch.float64)
        update = update.to(usual.device) * (size / torch.linalg.vector_norm(update).to(usual.device))
        weights[name] = (usual.double() + update).to(usual.dtype)
    return WeightEdit(f"placebo: as large as {edit.name}", weights, edit.untied, {"rank": rank})


def _moved(edit: Edit, seed: int) -> Edit:
    return lambda value: value + _move(value, edit(value), seed)


def _moved_placed(edit: PlacedFunction, seed: int) -> PlacedFunction:
    return lambda value, places: value + _move(value, edit(value, places), seed)


def _move(value: Tensor, edited: Tensor, seed: int) -> Tensor:
    """A move as long as the edit's, token by token."""
    direction = torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(seed)).to(value)
    length = torch.linalg.vector_norm((edited - value).float(), dim=-1, keepdim=True)
    return (length * direction.float() / direction.float().norm()).to(value.dtype)
