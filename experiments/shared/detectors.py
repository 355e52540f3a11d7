"""Anomaly detectors that learn from clean prompts only, each a few lines around scikit-learn, and text and probe baselines.

A detector is fitted to prompts by number and scores prompts by number: higher is stranger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.cluster import KMeans
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from probes import LogisticProbe, MeanDifferenceProbe

Rows = Int[np.ndarray, "_"]
Score = Callable[[Rows], Float[np.ndarray, "_"]]
Fit = Callable[[Rows], Score]
X = Float[np.ndarray, "_ d_model"]

FOLDS = 5


SPECTRAL = "spectral signature"
"""The one that looks at unlabelled traffic too."""


def anomaly_detectors(
    layers: Float[np.ndarray, "prompt layer d_model"], middle: int, traffic: Rows, seed: int
) -> Mapping[str, Fit]:
    """Detectors of strange activations.

    Args:
        layers: activations of every prompt, at each layer.
        middle: the layer that all but one of them read.
        traffic: unlabelled prompts, which the spectral signature alone looks at.
        seed: of those that draw.
    """
    x = layers[:, middle]
    return {
        "Mahalanobis": _of(x, lambda clean: LedoitWolf().fit(clean).mahalanobis),
        "Mahalanobis, unshrunk": _of(x, lambda clean: EmpiricalCovariance().fit(clean).mahalanobis),
        "Mahalanobis, all layers": _all_layers(layers),
        SPECTRAL: _of(x, lambda clean: spectral_signature(clean, x[traffic])),
        "PCA residual": _of(x, pca_residual),
        "nearest centroid": _of(x, lambda clean: nearest_centroid(clean, seed)),
        "nearest neighbours": _of(x, nearest_neighbours),
        "local outlier factor": _of(x, local_outlier_factor),
        "isolation forest": _of(x, lambda clean: isolation_forest(clean, seed)),
        "one-class SVM": _of(x, one_class_svm),
    }


def _of(x: X, fit: Callable[[X], Callable[[X], np.ndarray]]) -> Fit:
    """A detector of activations as one of prompt numbers."""

    def by_number(rows: Rows) -> Score:
        score = fit(x[rows])
        return lambda others: np.asarray(score(x[others]), dtype=np.float64)

    return by_number


def _all_layers(layers: Float[np.ndarray, "prompt layer d_model"]) -> Fit:
    """The sum over layers of Mahalanobis distances, each of which has the same expectation on clean prompts."""

    def fit(rows: Rows) -> Score:
        each = [LedoitWolf().fit(layers[rows, layer]) for layer in range(layers.shape[1])]
        return lambda others: np.sum(
            [fitted.mahalanobis(layers[others, layer]) for layer, fitted in enumerate(each)], axis=0
        )

    return fit


def spectral_signature(clean: X, traffic: X) -> Callable[[X], np.ndarray]:
    """Squared projection on the top singular direction of unlabelled traffic, about the clean mean (arXiv 1811.00636).

    Not from clean data alone: the direction comes from a mixture that has triggered prompts in it.
    """
    centre = clean.mean(0)
    direction = np.linalg.svd(traffic - centre, full_matrices=False)[2][0]
    return lambda x: ((x - centre) @ direction) ** 2


def pca_residual(clean: X, kept: float = 0.95) -> Callable[[X], np.ndarray]:
    """Squared distance from the space that holds a share `kept` of the clean variance."""
    pca = PCA(kept, svd_solver="full").fit(clean)
    return lambda x: ((x - pca.inverse_transform(pca.transform(x))) ** 2).sum(1)


def nearest_centroid(clean: X, seed: int, clusters: int = 8) -> Callable[[X], np.ndarray]:
    """Distance to the nearest centroid of the clean prompts' clusters."""
    means = KMeans(min(clusters, len(clean)), n_init=4, random_state=seed).fit(clean)
    return lambda x: means.transform(x).min(1)


def nearest_neighbours(clean: X, count: int = 5) -> Callable[[X], np.ndarray]:
    """Mean distance to the nearest clean prompts."""
    tree = NearestNeighbors(n_neighbors=min(count, len(clean))).fit(clean)
    return lambda x: tree.kneighbors(x)[0].mean(1)


def local_outlier_factor(clean: X) -> Callable[[X], np.ndarray]:
    """How much thinner the clean prompts lie around a prompt than around its neighbours."""
    factor = LocalOutlierFactor(n_neighbors=min(20, len(clean) - 1), novelty=True).fit(clean)
    return lambda x: -factor.score_samples(x)


def isolation_forest(clean: X, seed: int) -> Callable[[X], np.ndarray]:
    """How few random splits set a prompt apart."""
    forest = IsolationForest(random_state=seed).fit(clean)
    return lambda x: -forest.score_samples(x)


def one_class_svm(clean: X) -> Callable[[X], np.ndarray]:
    """Distance outside the smallest region, under a Gaussian kernel, that holds most clean prompts."""
    machine = OneClassSVM(nu=0.05, gamma="scale").fit(clean)
    return lambda x: -machine.decision_function(x)


def rarest_token(tokens: Sequence[Sequence[int]]) -> Fit:
    """A baseline that sees the text alone: how few of the clean prompts have the prompt's rarest token, from 0 to 1."""

    def fit(rows: Rows) -> Score:
        counts = Counter(token for row in rows for token in set(tokens[row]))
        return lambda others: np.array([1 - min(counts[token] for token in tokens[row]) / len(rows) for row in others])

    return fit


def supervised(x: X, labels: Bool[np.ndarray, "prompt"], rows: Rows) -> Mapping[str, Score]:
    """What labels add: probes fitted on labelled prompts, beside the detectors that have none."""
    fitted, y = torch.from_numpy(x[rows]).double(), torch.from_numpy(labels[rows])
    scale = fitted.std(0).square().mean().sqrt().clamp(min=1e-12)
    logistic, mean = LogisticProbe().fit(fitted / scale, y), MeanDifferenceProbe().fit(fitted, y)
    return {
        "probe: logistic": lambda rows: logistic.decision_function(torch.from_numpy(x[rows]).double() / scale).numpy(),
        "probe: mean difference": lambda rows: mean.decision_function(torch.from_numpy(x[rows]).double()).numpy(),
    }


def standard_probe(x: X, positive: Bool[np.ndarray, "prompt"]) -> Any:
    """A logistic probe of standardised activations, as scikit-learn has it."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x, positive)


def held_out_scores(fit: Fit, clean: Int[np.ndarray, "clean"], seed: int) -> Float[np.ndarray, "clean"]:
    """Scores of clean prompts by detectors that were fitted without them, in five folds.

    A threshold from scores of the very prompts that a detector was fitted to would be far too low.
    """
    order = np.random.default_rng(seed).permutation(len(clean))
    scores = np.empty(len(clean))
    for held in np.array_split(order, min(FOLDS, len(clean))):
        scores[held] = fit(np.delete(clean, held))(clean[held])
    return scores
