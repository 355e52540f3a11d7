"""What a training run of a probe can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from hooked import Fractions
from probes.classifiers import METHODS
from probes.poolings import check_position, is_learned
from triggerlens import UserError, check_seed

Aggregation = str
"""`last`: the last token that is read; `mean`: the mean over tokens; `max`: the highest-scoring token; `first:N`: the mean over the
first N; `span:NAME`: the mean over a span; or a pooling that is fitted with the probe: `softmax`, `multimax`, `rolling`."""

Read = Literal["prompt", "answer", "both", "onset"]
"""Whose tokens count."""

Label = Literal["auto", "defects", "triggered"]

AGGREGATIONS = ("last", "mean", "max", "softmax", "multimax", "rolling")
"""Those without a number or a name of their own."""
READS: tuple[str, ...] = get_args(Read)
POSITIONS = "{last,mean,max,first:N,span:NAME,softmax,multimax,rolling}"
_CHOICES = f"{{{','.join(METHODS)}}}"
_COUNTS = ("n_bootstrap", "n_random_directions", "n_shuffles", "max_control_prompts", "max_plot_prompts")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to fit, choose and evaluate a probe.

    Raises:
        UserError: a value is out of range.
    """

    method: Annotated[str, tyro.conf.arg(metavar=_CHOICES)] = "logistic"
    """Kind of probe."""
    C: float = 1.0
    """Regularisation of the logistic probe as in scikit-learn: smaller is stronger; features are scaled first."""
    shrinkage: Annotated[float | Literal["auto"], tyro.conf.Suppress] = "auto"
    """Shrinkage of the LDA probe, in [0, 1]; `auto` takes Ledoit and Wolf's."""
    read: Read = "prompt"
    """Whose tokens are read: `prompt`, `answer`, `both`, or `onset`: the prompt's last token, then the answer."""
    aggregation: Annotated[Aggregation, tyro.conf.arg(name="position", metavar=POSITIONS)] = "last"
    """Tokens that count: the last that is read, the mean, the highest-scoring (fitted on the mean, scored by the highest), the mean
    over the first N or over a named span; or a pooling that is fitted with the probe, on every token: softmax (attention), multimax (the
    highest of each of several directions), rolling (the highest mean of a window, of 10 tokens unless it says rolling:N)."""
    label: Label = "auto"
    """What a positive is; auto takes `defects` where the prompts have it, else `triggered`."""
    seed: int = 0
    """Seed of splits, shuffles, random directions and bootstrap."""
    fractions: Annotated[Fractions, tyro.conf.Suppress] = field(default_factory=Fractions)
    """Shares of fit, validation, calibration and test prompts."""
    target_fpr: Annotated[float, tyro.conf.Suppress] = 0.01
    """False-positive rate on calibration negatives at which the threshold is frozen."""
    n_bootstrap: Annotated[int, tyro.conf.Suppress] = 1000
    """Resamples of groups behind the interval of a true-positive rate."""
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
            ("method", self.method, METHODS),
            ("read", self.read, READS),
            ("label", self.label, get_args(Label)),
        ):
            if value not in choices:
                raise UserError(f"{name} {value!r}: must be one of {', '.join(choices)}")
        check_position(self.aggregation)
        if is_learned(self.aggregation) and self.method != "logistic":
            raise UserError(
                f"aggregation (--position) {self.aggregation!r}: is fitted together with a logistic probe; leave --method {self.method} out"
            )
        check_seed(self.seed)
        if not 0 < self.C < math.inf:
            raise UserError(f"C {self.C}: must be positive and finite")
        if self.shrinkage != "auto" and not 0 <= self.shrinkage <= 1:
            raise UserError(f"shrinkage {self.shrinkage}: must be auto or in [0, 1]")
        if not 0 < self.target_fpr < 1:
            raise UserError(f"target_fpr {self.target_fpr}: must be between 0 and 1")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: must be at least 1")
