"""A fitted probe measured on test prompts: every layer's AUROC, and rates at the best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from sklearn.decomposition import PCA

from probes.config import TrainConfig
from probes.controls import Comparison
from probes.detection import LabelledScores, firing_rate, negatives_text
from probes.inputs import Activations, CheckedPrompts
from probes.probe import layer_of
from probes.result import LayerResult, TestData, TprAtFpr
from probes.sinks import far_prompts
from triggerlens import Estimate, allowed, auroc, threshold_at_fpr, tpr_at_fpr

UNNAMED = "(unnamed)"


def measure_layers(
    sites: Sequence[str],
    test: LabelledScores,
    validation_auroc: Float[np.ndarray, "layer"],
    comparison: Comparison | str,
) -> tuple[LayerResult, ...]:
    """Every layer, none of which was chosen on these prompts."""
    rates = tpr_at_fpr(test.scores, test.positive, 0.01)
    harmless: list[float | None] = [None] * len(sites)
    if not isinstance(comparison, str):
        harmless = auroc(test.scores[comparison.rows], comparison.is_harmless).tolist()
    return tuple(
        LayerResult(layer_of(site), site, estimate, float(rates[i]), float(validation_auroc[i]), harmless[i])
        for i, (site, estimate) in enumerate(zip(sites, test.aurocs(), strict=True))
    )


def measure_tpr(test: LabelledScores, fpr: float) -> TprAtFpr:
    """True-positive rate at a false-positive rate, and a note where the negatives are too few for it: what shares a group counts once."""
    negatives, groups = test.scores[~test.positive], test.groups[~test.positive]
    note = None
    if not allowed(len(np.unique(groups)), fpr):
        fired = firing_rate(negatives, threshold_at_fpr(negatives, fpr), groups)
        many = {0: "no false positive", 1: "one false positive"}.get(fired.count or 0, f"{fired.count} false positives")
        note = (
            f"{negatives_text('test', groups)} cannot resolve {fpr:.1%}: this is the rate at {many} among them, which "
            f"leaves a false-positive rate of up to {fired.high:.1%}"
        )
    return TprAtFpr(fpr, test.tpr(fpr), note)


def false_positives(checked: CheckedPrompts, test: LabelledScores, threshold: float) -> dict[str, Estimate]:
    """Rate of each dataset's test negatives above the threshold, the worst first (of equals, the larger dataset)."""
    negative = ~test.positive
    scores = test.scores[negative]
    names = np.array([checked.prompts[row].dataset or UNNAMED for row in checked.splits.test[negative]])
    groups = test.groups[negative]
    rates = {
        str(name): firing_rate(scores[names == name], threshold, groups[names == name]) for name in np.unique(names)
    }
    return dict(sorted(rates.items(), key=lambda item: (-item[1].value, -(item[1].n or 0), item[0])))


class Drawn(NamedTuple):
    """The test prompts as plots show them, and what a reader must know of their activations."""

    data: TestData
    notes: tuple[str, ...]


def draw_test(
    activations: Activations,
    checked: CheckedPrompts,
    layer: int,
    scores: Float[np.ndarray, "test"],
    config: TrainConfig,
) -> Drawn:
    """The test prompts as plots show them: scores, and up to `max_plot_prompts` in two principal components of a layer."""
    rows = checked.splits.test
    triggered: Bool[np.ndarray, "test"] = np.array([checked.prompts[row].triggered for row in rows])
    size = min(len(rows), config.max_plot_prompts)
    drawn = np.sort(np.random.default_rng([config.seed, 2]).permutation(len(rows))[:size])
    x = activations.rows_at(rows[drawn], layer).double().cpu()
    points, explained = _principal(x.numpy(), config.seed)
    note = far_prompts(x, activations.sites[layer])
    data = TestData(rows, scores, checked.labels[rows], triggered, drawn, points, explained)
    return Drawn(data, (note,) if note else ())


def _principal(
    x: Float[np.ndarray, "row d_model"], seed: int
) -> tuple[Float[np.ndarray, "row 2"], tuple[float, float]]:
    """Two principal components, and their shares of the variance; zeros where nothing varies."""
    if min(x.shape) < 2 or not np.ptp(x, axis=0).any():
        return np.zeros((len(x), 2)), (0.0, 0.0)
    pca = PCA(2, svd_solver="randomized", random_state=seed)
    points = pca.fit_transform(x)
    first, second = pca.explained_variance_ratio_
    return points, (float(first), float(second))
