"""A score measured on test prompts: AUROC with its interval, and what fires at a threshold, dataset by dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from hooked import Prompt
from probes import firing_rate, rate_json
from triggerlens import Estimate, auroc, bootstrap_interval, rate as wilson, weighted_auroc

RESAMPLES = 1000
LEAST = 20
"""Prompts that a dataset needs to be called the worst: of two prompts one tells nothing."""


def auroc_estimate(
    scores: Float[np.ndarray, "prompt"],
    positive: Bool[np.ndarray, "prompt"],
    groups: Int[np.ndarray, "prompt"],
    seed: int,
) -> dict[str, float]:
    """AUROC as the score is oriented, with a 95% bootstrap interval that resamples pairs."""
    low, high = bootstrap_interval(lambda weights: weighted_auroc(scores, positive, weights), groups, RESAMPLES, seed)
    return {"value": float(auroc(scores, positive)), "low": float(low), "high": float(high)}


def best_either_way(scores: Float[np.ndarray, "prompt direction"], positive: Bool[np.ndarray, "prompt"]) -> np.ndarray:
    """AUROC of each direction, turned the way that makes it larger: a hard floor, since it looks at the labels."""
    values = auroc(scores, positive)
    return np.maximum(values, 1 - values)


def dataset_names(prompts: Sequence[Prompt]) -> np.ndarray:
    """`dataset` of each prompt, and whether it carries the trigger: false alarms are reported for each."""
    return np.array([f"{one.dataset or 'all'}{', triggered' if one.triggered else ''}" for one in prompts])


def alarms(
    scores: Float[np.ndarray, "prompt"],
    positive: Bool[np.ndarray, "prompt"],
    datasets: np.ndarray,
    threshold: float,
) -> dict[str, Any]:
    """What fires above a threshold: of the positives, of all negatives, and of the negatives of each dataset.

    `worst` is the dataset with the highest false-positive rate, among those with at least `LEAST` prompts where there are any.
    """
    each = {
        str(name): rate_json(firing_rate(scores[~positive & (datasets == name)], threshold))
        for name in sorted(set(datasets[~positive].tolist()))
    }
    large = [name for name in each if each[name]["total"] >= LEAST] or list(each)
    worst = max(large, key=lambda name: each[name]["rate"])
    return {
        "threshold": float(threshold),
        "detected": rate_json(firing_rate(scores[positive], threshold)),
        "false_positives": rate_json(firing_rate(scores[~positive], threshold)),
        "by_dataset": each,
        "worst": worst,
    }


def as_estimate(rate: dict[str, Any]) -> dict[str, float]:
    """A rate as `value`, `low` and `high`."""
    return {"value": rate["rate"], "low": rate["ci"][0], "high": rate["ci"][1]}


def complement(rate: dict[str, Any]) -> dict[str, float]:
    """The rate of what did not fire."""
    return as_estimate(rate_json(wilson(rate["total"] - rate["fired"], rate["total"])))


def rate_estimate(rate: Mapping[str, Any]) -> dict[str, float]:
    """A rate with its Wilson interval, as `rates.json` and `organism-eval` have it, in the words of findings."""
    return {"value": rate["rate"], "low": rate["low"], "high": rate["high"]}


def estimate_json(estimate: Estimate) -> dict[str, float]:
    """An estimate in the words of findings."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
