"""Dictionaries to hold an autoencoder's against: the same search, the same budget of one feature, no training of a dictionary.

1. `residual dimensions`: the axes of the residual stream as they are ("raw neurons"); `PCA components`: its main axes.
   Each axis stands twice, in both orientations.
2. `random dictionary`: an autoencoder of the same width and sparsity as it is before training.
3. `mean difference` and `logistic probe`: directions fitted with the labels of the training prompts, dense in all
   dimensions. Published comparisons find them as good or better (arXiv:2502.16681): they are the ones to beat.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architectures.topk import TopK
from sae.trigger_latents.latents import Dictionary


def plain_dictionaries(rows: Float[Tensor, "row d_in"], *, width: int, k: int, seed: int = 0) -> dict[str, Dictionary]:
    """Baselines without labels.

    Args:
        rows: activations of training tokens.
        width: number of latents of the autoencoder to compare with.
        k: latents that it has alive a token.
        seed: of the random dictionary.
    """
    mean = rows.mean(0)
    components = torch.linalg.svd(rows - mean, full_matrices=False).Vh
    untrained = TopK(rows.shape[1], width, seed, k=max(1, min(k, width))).to(rows.device)
    untrained.start_from(rows)
    return {
        "random dictionary": untrained.encode,
        "PCA components": both_ways(components, mean),
        "residual dimensions": both_ways(torch.eye(rows.shape[1], device=rows.device), mean),
    }


def both_ways(axes: Float[Tensor, "axis d_in"], origin: Float[Tensor, "d_in"]) -> Dictionary:
    """Projections on axes, and their opposites."""
    directions = projections(torch.cat([axes, -axes]))
    return lambda x: directions(x - origin.to(x))


def projections(directions: Float[Tensor, "feature d_in"]) -> Dictionary:
    """Inner products with directions."""
    return lambda x: x @ directions.to(x).T


def fitted_dictionaries(
    activations: Float[np.ndarray, "prompt aggregation d_in"], positive: Bool[np.ndarray, "prompt"]
) -> dict[str, Dictionary]:
    """Baselines with labels: a direction for each aggregation of a prompt's activations.

    Args:
        activations: of training prompts, from `read_features` with the identity.
        positive: their labels, of both classes.
    """
    fits = {"mean difference": _mean_difference, "logistic probe": _logistic}
    dictionaries: dict[str, Dictionary] = {}
    for name, fit in fits.items():
        rows = [fit(aggregated, positive) for aggregated in activations.swapaxes(0, 1)]
        dictionaries[name] = projections(torch.from_numpy(np.stack(rows)).float())
    return dictionaries


def _mean_difference(
    x: Float[np.ndarray, "prompt d_in"], positive: Bool[np.ndarray, "prompt"]
) -> Float[np.ndarray, "d_in"]:
    return x[positive].mean(0) - x[~positive].mean(0)


def _logistic(x: Float[np.ndarray, "prompt d_in"], positive: Bool[np.ndarray, "prompt"]) -> Float[np.ndarray, "d_in"]:
    from sklearn.linear_model import LogisticRegression

    scale = np.maximum(x.std(0), 1e-6)
    fitted = LogisticRegression(max_iter=2000, class_weight="balanced").fit((x - x.mean(0)) / scale, positive)
    return (fitted.coef_[0] / scale).astype(x.dtype)
