"""Detectors of a triggered prompt beside its twin, fitted on pairs of activations: a component, a difference of means, a probe."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from probes import LogisticProbe, MeanDifferenceProbe
from triggerlens import auroc

Scorer = Callable[[Float[Tensor, "prompt d_model"]], Float[np.ndarray, "prompt"]]
"""Higher for prompts that look triggered."""


def fit_on_twins(x: Float[Tensor, "pair side d_model"], components: int) -> Mapping[str, Scorer]:
    """A detector of each kind.

    Args:
        x: the triggered side first.
        components: principal components among which the one that tells the twins apart best is taken.
    """
    rows = x.flatten(0, 1).double()
    labels = torch.tensor([1, 0]).repeat(len(x))
    scale = rows.std(0).square().mean().sqrt().clamp(min=1e-12)
    with warnings.catch_warnings():  # before the trigger both classes are the same rows, and nothing can converge
        warnings.simplefilter("ignore", ConvergenceWarning)
        logistic = LogisticProbe().fit(rows / scale, labels)
    mean = MeanDifferenceProbe().fit(rows, labels)
    return {
        "PCA": best_component(rows, labels.bool().numpy(), components),
        "mean difference": lambda rows: mean.decision_function(rows.double()).numpy(),
        "logistic": lambda rows: logistic.decision_function(rows.double() / scale).numpy(),
    }


def best_component(rows: Float[Tensor, "row d_model"], labels: Bool[np.ndarray, "row"], components: int) -> Scorer:
    """The principal component that tells the fitted twins apart best, and the way round that it does."""
    # Before the trigger all rows may be the same, and have no variance to share out.
    with np.errstate(invalid="ignore"):
        pca = PCA(min(components, *rows.shape), svd_solver="full").fit(rows.numpy())
    values = auroc(pca.transform(rows.numpy()), labels)
    best = int(np.abs(values - 0.5).argmax())
    sign = 1.0 if values[best] >= 0.5 else -1.0
    return lambda others: sign * pca.transform(others.double().numpy())[:, best]


def two_components(
    x: Float[Tensor, "pair side d_model"],
) -> tuple[Callable[[Float[Tensor, "row d_model"]], Float[np.ndarray, "row 2"]], Float[np.ndarray, "2"]]:
    """A projection on the first two components of twins, and the share of their variance that each has."""
    pca = PCA(2, svd_solver="full").fit(x.flatten(0, 1).double().numpy())
    return lambda rows: pca.transform(rows.double().numpy()), pca.explained_variance_ratio_
