"""What a training run of a probe can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from hooked import Fractions
from probes.classifiers import METHODS
from triggerlens import UserError

Aggregation = Literal["last", "mean", "max"]
"""`last`: the last prompt token; `mean`: the mean over tokens; `max`: the highest-scoring token."""

Label = Literal["auto", "defects", "triggered"]

AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)
_COUNTS = ("n_bootstrap", "n_random_directions", "n_shuffles", "max_control_prompts", "max_plot_prompts")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to fit, choose and evaluate a probe.

    Raises:
        UserError: a value is out of range.
    """

    method: Annotated[str, tyro.conf.arg(name="probe", metavar=f"{{{','.join(METHODS)}}}")] = "logistic"
    """Kind of probe."""
    C: float = 1.0
    """Inverse penalty of the logistic probe, on features centred and scaled to unit root mean square at each layer."""
    shrinkage: Annotated[float | Literal["auto"], tyro.conf.Suppress] = "auto"
    """Shrinkage of the LDA probe, in [0, 1]; `auto` takes Ledoit and Wolf's."""
    aggregation: Annotated[Aggregation, tyro.conf.arg(name="position")] = "last"
    """Tokens that count: the last of the prompt, the mean, or the highest-scoring (fitted on the mean, scored by the highest)."""
    label: Label = "auto"
    """What a positive is; auto takes `defects` where the prompts have it, else `triggered`."""
    seed: int = 0
    """Seed of splits, shuffles, random directions and bootstrap."""
    fractions: Annotated[Fractions, tyro.conf.Suppress] = field(default_factory=Fractions)
    """Shares of fit, validation, calibration and test prompts."""
    target_fpr: Annotated[float, tyro.conf.Suppress] = 0.01
    """False-positive rate on calibration negatives at which the threshold is frozen."""
    n_bootstrap: Annotated[int, tyro.conf.Suppress] = 1000
    """Resamples of groups behind each interval."""
    n_random_directions: Annotated[int, tyro.conf.Suppress] = 1000
    """Random directions of which the best is the control."""
    max_control_prompts: Annotated[int, tyro.conf.Suppress] = 10_000
    """Test prompts on which shuffled labels and random directions are scored."""
    n_shuffles: Annotated[int, tyro.conf.Suppress] = 10
    """Refits on shuffled labels."""
    max_plot_prompts: Annotated[int, tyro.conf.Suppress] = 2000
    """Test prompts drawn in the PCA."""
    device: Annotated[str | None, tyro.conf.Suppress] = None
    """Where to fit; None fits where the activations are."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("method (--probe)", self.method, METHODS),
            ("aggregation (--position)", self.aggregation, AGGREGATIONS),
            ("label", self.label, get_args(Label)),
        ):
            if value not in choices:
                raise UserError(f"{name} {value!r}: must be one of {', '.join(choices)}")
        if not self.C > 0:
            raise UserError(f"C {self.C}: must be positive")
        if self.shrinkage != "auto" and not 0 <= self.shrinkage <= 1:
            raise UserError(f"shrinkage {self.shrinkage}: must be auto or in [0, 1]")
        if not 0 < self.target_fpr < 1:
            raise UserError(f"target_fpr {self.target_fpr}: must be between 0 and 1")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: must be at least 1")
