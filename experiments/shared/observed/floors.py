"""What a direction's AUROC is read against: the text alone, directions that know nothing, and shuffled labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from experiments.shared.later import torch
from experiments.shared.observed.contrasts import Contrasts, Part
from experiments.shared.observed.steering import random_directions
from experiments.shared.observed.transfer import (
    SETTINGS,
    Fitted,
    Reading,
    Setting,
    at_layer,
    coefficients,
    fits_needed,
    fits_of_setting,
    mean_of_formats,
)
from triggerlens import Estimate, auroc, auroc_estimate

TEXT = ("bag of words", "characters", "length")


def text_baselines(contrasts: Contrasts, tokens: Sequence[int]) -> dict[str, dict[Setting, Estimate]]:
    """AUROC of classifiers that see the text and no model, in each setting.

    Args:
        contrasts: the prompts.
        tokens: how many each has.
    """
    features = {
        "bag of words": CountVectorizer(token_pattern=r"(?u)\S+").fit_transform(_words(contrasts)),
        "characters": TfidfVectorizer(analyzer="char", ngram_range=(1, 5), sublinear_tf=True).fit_transform(
            contrasts.texts
        ),
        "length": csr_matrix(np.array([[len(text) for text in contrasts.texts], tokens], dtype=float).T / 100),
    }
    return {name: _text_settings(contrasts, features[name]) for name in TEXT}


def _words(contrasts: Contrasts) -> list[str]:
    """Texts without the marks behind words, which go with their place."""
    return ["".join(letter if letter.isalnum() else " " for letter in text) for text in contrasts.texts]


def _text_settings(contrasts: Contrasts, x: csr_matrix) -> dict[Setting, Estimate]:
    fitted = {name: _classifier(contrasts, x, formats) for name, formats in fits_needed(contrasts.formats)}
    return {
        setting: mean_of_formats(
            [
                _text_auroc(contrasts, x, fitted[name], part, form)
                for name, form, part in fits_of_setting(setting, contrasts.formats)
            ]
        )
        for setting in SETTINGS
    }


def _classifier(contrasts: Contrasts, x: csr_matrix, formats: Sequence[str]) -> LogisticRegression:
    rows = contrasts.rows("fit", *formats)
    return LogisticRegression(C=10.0, max_iter=300).fit(x[rows], contrasts.positive[rows])


def _text_auroc(contrasts: Contrasts, x: csr_matrix, model: LogisticRegression, part: Part, form: str) -> Estimate:
    rows = contrasts.rows(part, form)
    # Sums of the same numbers in another order differ in their last bits, which are no reason to tell prompts apart.
    score = np.round(model.decision_function(x[rows]), 9)
    return auroc_estimate(score, contrasts.positive[rows], contrasts.pairs[rows])


def direction_floors(
    reading: Reading, fitted: Mapping[str, Fitted], count: int, seed: int
) -> dict[str, dict[Setting, dict[str, float]]]:
    """The best and the median of directions at the probe's layers in each setting: random ones either way round, shuffled ones as they come.

    Args:
        reading: of the model.
        fitted: the mean difference of each fit.
        count: of random directions, and of shuffles.
        seed: draws them.
    """
    random = random_directions(count, reading.values.shape[-1], seed)
    floors: dict[str, dict[Setting, dict[str, float]]] = {"random directions": {}, "shuffled labels": {}}
    shuffles = {name: shuffled(reading, own, count, seed) for name, own in fitted.items()}
    for setting in SETTINGS:
        tested = fits_of_setting(setting, reading.contrasts.formats)
        by_chance = _aurocs(reading, [(random, fitted[name].layer) for name, _, _ in tested], tested)
        either = np.maximum(by_chance, 1 - by_chance)
        floors["random directions"][setting] = _summary(either.mean(0))
        mixed = _aurocs(reading, [(shuffles[name], fitted[name].layer) for name, _, _ in tested], tested)
        floors["shuffled labels"][setting] = _summary(mixed.mean(0))
    return floors


def shuffled(reading: Reading, fitted: Fitted, count: int, seed: int) -> Float[torch.Tensor, "shuffle d_model"]:
    """Mean differences at a probe's layer where a coin says of each pair which prompt counts as observed."""
    rows = reading.contrasts.rows("fit", *fitted.formats)
    values, labels = reading.values[rows, fitted.layer][:, None], reading.labels(rows)
    _, pair = np.unique(reading.contrasts.pairs[rows], return_inverse=True)
    rng = np.random.default_rng(seed)
    turned = [rng.permutation(np.arange(pair.max() + 1) % 2 == 0)[pair] for _ in range(count)]
    return torch.cat([coefficients("mean difference", values, labels ^ turn) for turn in turned])


def _aurocs(
    reading: Reading, directions: Sequence[tuple[Any, int]], tested: Sequence[tuple[str, str, Part]]
) -> Float[np.ndarray, "format direction"]:
    each = []
    for (many, layer), (_, form, part) in zip(directions, tested, strict=True):
        rows = reading.contrasts.rows(part, form)
        each.append(auroc(at_layer(reading, many, layer, rows), reading.labels(rows)))
    return np.stack(each)


def _summary(values: Float[np.ndarray, " direction"]) -> dict[str, float]:
    return {"best": float(values.max()), "median": float(np.median(values)), "count": len(values)}
