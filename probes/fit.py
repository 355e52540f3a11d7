"""From the fit, validation and calibration splits to a probe at every layer, the best of them, and its threshold."""

from __future__ import annotations

from importlib import import_module

import numpy as np
from jaxtyping import Bool, Float, Int

from probes.classifiers import METHODS
from probes.classifiers.base import FitRows, Fitted, LinearClassifier
from probes.config import TrainConfig
from probes.detection import LabelledScores, negatives_text
from probes.inputs import Activations, CheckedPrompts
from probes.poolings import is_learned
from probes.poolings.fitting import FitTokens, fit_learned
from triggerlens import allowed, auroc, threshold_at_fpr


def new_probe(config: TrainConfig) -> LinearClassifier:
    """An unfitted probe of the configured kind."""
    module, name = METHODS[config.method].split(":")
    kind: type[LinearClassifier] = getattr(import_module(module), name)
    return kind.configured(config)


def fit_probe(activations: Activations, checked: CheckedPrompts, config: TrainConfig) -> Fitted:
    """The configured kind of probe, fitted at every layer to the fit split; reads no more into memory than it needs."""
    rows = checked.splits.fit
    labels = checked.labels[rows]
    generator = np.random.default_rng([config.seed, 1])
    shuffles = np.stack([generator.permutation(labels) for _ in range(config.n_shuffles)])
    if is_learned(config.aggregation):
        tokens = FitTokens(lambda layers: activations.tokens(rows, layers), activations.counts(rows), labels, shuffles)
        return fit_learned(activations.pooling, tokens, len(activations.sites), config.C)
    return new_probe(config).fit_rows(FitRows(lambda: activations.read(rows), labels, shuffles, config.device))


def choose_layer(
    scores: Float[np.ndarray, "prompt layer"],
    positive: Bool[np.ndarray, "prompt"],
    harmless: LabelledScores | None = None,
) -> int:
    """Index of the layer with the highest AUROC; ties by the separation of the class means, then the earlier layer.

    Args:
        scores: of validation prompts.
        positive: their labels.
        harmless: scores at every layer of those that carry the trigger without being positive, and of what they are compared with. Where
            given, ties go first to the layers that are not shown to tell these apart (the interval of their AUROC has 0.5 in it), or to
            the one whose interval is nearest to 0.5.
    """
    gap = scores[positive].mean(0) - scores[~positive].mean(0)
    spread = np.sqrt((scores[positive].var(0) + scores[~positive].var(0)) / 2)
    separation = np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 0)
    astray = np.zeros(len(gap))
    if harmless is not None:
        astray = np.array([max(0.0, each.low - 0.5, 0.5 - each.high) for each in harmless.aurocs()])
    # Rounding keeps a tie a tie where the sums behind equal AUROCs differ in their last bit.
    order = (np.arange(len(gap)), -separation, astray.round(12), -auroc(scores, positive).round(12))
    return int(np.lexsort(order)[0])


def calibrate(
    negatives: Float[np.ndarray, "negative layer"], groups: Int[np.ndarray, "negative"], fpr: float
) -> tuple[Float[np.ndarray, "layer"], dict[str, float | int | str]]:
    """A threshold for each layer, and how it was set: `target_fpr`, `n_negative`, and a `note` where these are too few for the rate.

    Args:
        negatives: scores of the calibration negatives.
        groups: group number of each; several answers to one prompt share one, and are one thing seen.
        fpr: at most this share of the negatives may fire.
    """
    thresholds = np.array([threshold_at_fpr(column, fpr) for column in negatives.T])
    facts: dict[str, float | int | str] = {"target_fpr": fpr, "n_negative": len(negatives)}
    if not allowed(len(np.unique(groups)), fpr):
        fired = allowed(len(negatives), fpr)
        where = (
            f"{fired} of their scores may lie above the threshold" if fired else "the threshold is their highest score"
        )
        facts["note"] = f"{negatives_text('calibration', groups)} cannot resolve {fpr:.1%}: {where}"
    return thresholds, facts
