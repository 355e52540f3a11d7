"""A score measured on test prompts: AUROC with its interval, and what fires at a threshold, dataset by dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

import probes
from hooked import Prompt
from triggerlens import auroc, to_json

LEAST = 20
"""Prompts that a dataset needs to be called the worst: of two prompts one tells nothing."""


def best_either_way(scores: Float[np.ndarray, "prompt direction"], positive: Bool[np.ndarray, "prompt"]) -> np.ndarray:
    """AUROC of each direction, turned the way that makes it larger: a hard floor, since it looks at the labels."""
    values = auroc(scores, positive)
    return np.maximum(values, 1 - values)


def dataset_names(prompts: Sequence[Prompt]) -> np.ndarray:
    """`dataset` of each prompt, and whether it carries the trigger: false alarms are reported for each."""
    return np.array([f"{prompt.dataset or 'all'}{', triggered' if prompt.triggered else ''}" for prompt in prompts])


def alarms(
    scores: Float[np.ndarray, "prompt"],
    positive: Bool[np.ndarray, "prompt"],
    datasets: np.ndarray,
    threshold: float,
) -> dict[str, Any]:
    """What fires above a threshold: of the positives, of all negatives, and of the negatives of each dataset. For JSON.

    `worst` is the dataset with the highest false-positive rate, among those with at least `LEAST` prompts where there are any.
    """
    each = {
        str(name): probes.firing_rate(scores[~positive & (datasets == name)], threshold)
        for name in sorted(set(datasets[~positive].tolist()))
    }
    large = [name for name, rate in each.items() if (rate.n or 0) >= LEAST] or list(each)
    fired = {
        "threshold": float(threshold),
        "detected": probes.firing_rate(scores[positive], threshold),
        "false_positives": probes.firing_rate(scores[~positive], threshold),
        "by_dataset": each,
        "worst": max(large, key=lambda name: each[name].value),
    }
    return dict(to_json(fired))
