"""What a training run of a probe can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from hooked import Fractions
from probes.aggregation import AGGREGATIONS, Aggregation

Method = Literal["logistic", "mean-difference", "lda"]
Label = Literal["auto", "defects", "triggered"]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to fit, choose and evaluate a probe."""

    method: Method = "logistic"
    """Which probe."""
    C: float = 1.0
    """Inverse penalty of the logistic probe, on features centred and scaled to unit root mean square at each layer."""
    shrinkage: float | Literal["auto"] = "auto"
    """Shrinkage of the LDA probe, in [0, 1]; `auto` takes Ledoit and Wolf's."""
    aggregation: Aggregation = "last"
    """Position to read; `max` fits on position means and scores by the highest token."""
    label: Label = "auto"
    """What a positive is; `auto` takes `defects` where the prompts have it, else `triggered`."""
    seed: int = 0
    """Seed of the splits, the shuffles, the random directions and the bootstrap."""
    fractions: Fractions = field(default_factory=Fractions)
    """Shares of fit, validation, calibration and test prompts."""
    target_fpr: float = 0.01
    """False-positive rate on calibration negatives at which the threshold is frozen."""
    n_bootstrap: int = 1000
    """Resamples of groups behind each interval."""
    n_random_directions: int = 1000
    """Random directions of which the best is the control."""
    max_control_prompts: int = 10_000
    """Test prompts on which shuffled labels and random directions are scored."""
    n_shuffles: int = 10
    """Refits on shuffled labels."""
    max_plot_prompts: int = 2000
    """Test prompts drawn in the PCA."""
    device: str | None = None
    """Where to fit; None fits where the activations are."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method) or self.label not in get_args(Label):
            raise ValueError(f"unknown method {self.method!r} or label {self.label!r}")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"unknown aggregation {self.aggregation!r}; one of {', '.join(AGGREGATIONS)}")
        if not 0 < self.target_fpr < 1 or not self.C > 0:
            raise ValueError(f"target_fpr must be in (0, 1) and C positive, found {self.target_fpr} and {self.C}")
        counts = ("n_bootstrap", "n_random_directions", "n_shuffles", "max_control_prompts", "max_plot_prompts")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
