"""k-sparse probing (Gurnee et al., 2023, arXiv:2305.01610; as in SAEBench): how well do k latents tell two classes apart?

1. On training samples alone, the k latents with the largest difference of class means are chosen.
2. On training samples alone, a logistic regression is fitted to them.
3. On test samples it is scored. A comparison without sparse latents (the activations themselves, a random dictionary) goes
   through the same three steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from triggerlens import Estimate, UserError, rate_over_groups


@dataclass(frozen=True)
class SparseProbe:
    """A probe on k features, and its test scores."""

    features: tuple[int, ...]
    """The chosen ones, best first."""
    auroc: float
    """On test samples."""
    accuracy: Estimate
    """Of test samples."""


def k_sparse_probe(
    train: Float[np.ndarray, "train feature"],
    train_labels: Bool[np.ndarray, "train"],
    test: Float[np.ndarray, "test feature"],
    test_labels: Bool[np.ndarray, "test"],
    k: int,
    groups: Int[np.ndarray, "test"] | None = None,
) -> SparseProbe:
    """Choose k features and fit on the training samples, score on the test samples.

    Args:
        train: features of the training samples.
        train_labels: their classes.
        test: features of the test samples.
        test_labels: their classes.
        k: how many features.
        groups: group number of each test sample, of which a group is one thing seen; all stand alone where None.

    Raises:
        UserError: k is out of range, or a split lacks a class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not 1 <= k <= train.shape[1]:
        raise UserError(f"k must lie between 1 and the number of features, {train.shape[1]}; found {k}")
    for name, labels in (("training", train_labels), ("test", test_labels)):
        if labels.all() or not labels.any():
            raise UserError(f"all {name} samples are of one class; give samples of both")
    difference = np.abs(train[train_labels].mean(0) - train[~train_labels].mean(0))
    chosen = np.argsort(-difference, kind="stable")[:k]
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = probe.fit(train[:, chosen], train_labels).decision_function(test[:, chosen])
    right = (scores > 0) == test_labels
    return SparseProbe(
        tuple(chosen.tolist()),
        float(roc_auc_score(test_labels, scores)),
        rate_over_groups(right, np.arange(len(test)) if groups is None else groups),
    )
