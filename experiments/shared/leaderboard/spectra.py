"""Detectors that read weights and run nothing (arXiv 2602.15195): five numbers of each attention matrix, of the weights or of their difference."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.shared.leaderboard.context import Context
from hooked import HookedModel

Matrix = Float[Tensor, "d_out d_in"]
ENERGY = 2
"""Place of the energy concentration among the five numbers."""


def bag_of_weights(folder: Path, context: Context) -> list[float]:
    """Twenty numbers: five of queries, keys, values and outputs each, averaged over layers; no reference is needed."""
    return _numbers(attention_matrices(context.model(folder))).mean(1).flatten().tolist()


def bag_of_differences(folder: Path, context: Context) -> list[float]:
    """The same twenty numbers of the difference to the reference, as published."""
    return _of_differences(folder, context).mean(1).flatten().tolist()


def difference(folder: Path, context: Context) -> float:
    """How much of the weights' difference to the reference lies in one direction: the energy concentration, averaged over matrices."""
    return float(_of_differences(folder, context)[:, :, ENERGY].mean())


def _of_differences(folder: Path, context: Context) -> Float[np.ndarray, "kind layer number"]:
    return context.keep(folder, "differences", partial(_differences, folder, context))


def _differences(folder: Path, context: Context) -> Float[np.ndarray, "kind layer number"]:
    ours, theirs = (attention_matrices(context.model(own)) for own in (folder, context.reference))
    return _numbers([[a - b for a, b in zip(*pair, strict=True)] for pair in zip(ours, theirs, strict=True)])


def _numbers(matrices: list[list[Matrix]]) -> Float[np.ndarray, "kind layer number"]:
    return np.array([[spectral_numbers(matrix) for matrix in layers] for layers in matrices])


def spectral_numbers(matrix: Matrix) -> list[float]:
    """Largest singular value, Frobenius norm, energy concentration, spectral entropy (nats), kurtosis of the entries.

    Energy concentration is the largest squared singular value's share of all; the entropy is that of these shares. Of a matrix of zeros
    all five are 0.
    """
    values = torch.linalg.svdvals(matrix.double())
    total = float(values.square().sum())
    if total < 1e-20:
        return [0.0] * 5
    shares = values.square() / total
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum()
    entries = matrix.double().flatten() - matrix.double().mean()
    kurtosis = entries.pow(4).mean() / entries.square().mean().square()
    return [float(values[0]), total**0.5, float(shares[0]), float(entropy), float(kurtosis)]


@torch.no_grad()
def attention_matrices(model: HookedModel) -> list[list[Matrix]]:
    """Of queries, keys, values and outputs, each layer's matrix; of a fused projection, each part."""
    info = model.info
    heads = (info.n_heads, info.n_kv_heads, info.n_kv_heads)
    parts = [[_part(model, layer, which, heads) for layer in range(info.n_layers)] for which in range(3)]
    outputs = [
        torch.cat([model.head_weights(layer, head) for head in range(info.n_heads)], dim=1)
        for layer in range(info.n_layers)
    ]
    return [*parts, outputs]


def _part(model: HookedModel, layer: int, which: int, heads: tuple[int, int, int]) -> Matrix:
    projections = model.anatomy.projections
    assert projections is not None  # every architecture of the zoo has attention
    weight = _weight(model.hf_model.get_submodule(model.anatomy.block_path(layer, projections.modules[which])))
    rows = [projections.columns("qkv"[which], head, heads, model.info.d_head) for head in range(heads[which])]
    return torch.cat([weight[own] for own in rows])


def _weight(module: Any) -> Matrix:
    """[d_out d_in]: GPT-2 keeps its projections the other way round."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight
