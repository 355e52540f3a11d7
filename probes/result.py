"""What training a probe found: frozen records, and the object that `metrics.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from probes.answers.result import AnswerResult
from probes.config import TrainConfig
from probes.probe import LinearProbe
from triggerlens import Estimate, to_json


@dataclass(frozen=True, slots=True)
class LayerResult:
    """One layer, on test prompts unless it says otherwise."""

    layer: int
    """Number of the block."""
    site: str
    """Name of the site, such as `resid_post.3`."""
    auroc: Estimate
    """Of positives against negatives."""
    tpr_at_fpr_01: float
    """True-positive rate at a false-positive rate of at most 1%."""
    validation_auroc: float
    """What the layer was chosen by."""
    harmless_auroc: float | None
    """Triggered-but-harmless prompts against their untriggered twins; None where there are none."""


@dataclass(frozen=True, slots=True)
class TprAtFpr:
    """True-positive rate at a fixed false-positive rate."""

    fpr: float
    tpr: Estimate
    note: str | None
    """Why the rate cannot be resolved, where there are too few negatives."""


@dataclass(frozen=True, slots=True)
class Control:
    """One control: its AUROC, or why the prompts cannot give it."""

    auroc: Estimate | None
    """On test prompts; None where the prompts cannot give it."""
    reason: str | None = None
    """Why they cannot; None where they can."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else is written down of it."""

    def to_json(self) -> dict[str, Any]:
        """An object with `auroc` and `auroc_ci`; null with a `reason` where the prompts cannot give it."""
        if self.auroc is None:
            return {"auroc": None, "reason": self.reason, **self.details}
        return {"auroc": self.auroc.value, "auroc_ci": self.auroc.interval, **self.details}


@dataclass(frozen=True, slots=True)
class HarmlessControl(Control):
    """Triggered prompts that are no positives, against untriggered ones: near 0.5 the score reads behaviour, near 1 tokens."""

    n_harmless: int = field(kw_only=True)
    """Copies of a text, and answers to one prompt, count once."""
    n_reference: int = field(kw_only=True)
    """Untriggered prompts that these are held against, counted alike."""
    twins: bool = field(kw_only=True)
    """Whether they are compared with their untriggered twins; else with all untriggered harmless prompts."""
    bag_of_tokens_auroc: float | None = field(kw_only=True)
    """Of the text classifier on the same prompts."""
    defecting_against_harmless: Estimate = field(kw_only=True)
    """AUROC of positives against the triggered-but-harmless: near 1 where the score tells the two apart."""
    false_positive_rate: Estimate = field(kw_only=True)
    """Of the triggered-but-harmless prompts, at the frozen threshold."""

    def to_json(self) -> dict[str, Any]:
        """As of any control, and its own facts."""
        return Control.to_json(self) | {
            "n_harmless": self.n_harmless,
            "n_reference": self.n_reference,
            "reference": "untriggered twins" if self.twins else "all untriggered harmless prompts",
            "bag_of_tokens_auroc": self.bag_of_tokens_auroc,
            "defecting_against_harmless": to_json(self.defecting_against_harmless),
            "false_positive_rate": to_json(self.false_positive_rate),
        }


@dataclass(frozen=True, slots=True)
class PromptKind:
    """Test prompts of one kind."""

    name: str
    """For people."""
    positive: bool
    triggered: bool
    """Of positives, whether that is all that makes them positives."""
    members: Bool[np.ndarray, "test"]


@dataclass(frozen=True, slots=True)
class TestData:
    """Test prompts at the best layer, as the report draws them."""

    rows: Int[np.ndarray, "test"]
    """Index of each test prompt."""
    scores: Float[np.ndarray, "test"]
    positive: Bool[np.ndarray, "test"]
    triggered: Bool[np.ndarray, "test"]
    pca_rows: Int[np.ndarray, "drawn"]
    """Positions in `rows` of the prompts that the PCA draws."""
    pca: Float[np.ndarray, "drawn 2"]
    pca_explained: tuple[float, float]
    """Shares of the variance."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Everything that a training run found."""

    probe: LinearProbe
    """The fitted probe, every layer of it."""
    config: TrainConfig
    """How it was fitted."""
    backend: str
    """The library that read the activations: `nnsight` or `transformer-lens`."""
    layers: tuple[LayerResult, ...]
    """What each layer gives, in forward order."""
    tpr: tuple[TprAtFpr, ...]
    """At 1% and at 0.1%, at the best layer."""
    n_positive: int
    """Test positives; copies of a text, and answers to one prompt, are one thing seen and count once."""
    n_negative: int
    """Test negatives, counted alike."""
    detected: Estimate
    """Test positives above the frozen threshold."""
    false_positives: Mapping[str, Estimate]
    """Test negatives above the frozen threshold, by dataset, the worst first."""
    controls: Mapping[str, Control]
    """By name, such as `shuffled_labels`, `bag_of_tokens` and `triggered_but_harmless`."""
    split_sizes: Mapping[str, int]
    """Prompts in each part, by its name."""
    test: TestData
    """Test prompts' scores and labels, for pictures and further controls."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the numbers."""
    answers: AnswerResult | None = None
    """Of a probe that reads answers."""

    @property
    def best(self) -> LayerResult:
        """The layer chosen on validation data."""
        return self.layers[self.probe.best]

    @property
    def worst(self) -> tuple[str, Estimate]:
        """The dataset with the highest false-positive rate, and the rate."""
        return next(iter(self.false_positives.items()))

    @property
    def harmless(self) -> HarmlessControl | None:
        """The control that tells behaviour from tokens; None where the prompts cannot give it."""
        control = self.controls.get("triggered_but_harmless")
        return control if isinstance(control, HarmlessControl) else None

    def kinds(self) -> list[PromptKind]:
        """Positives, triggered-but-harmless and untriggered test prompts; those that occur."""
        test, defects = self.test, self.probe.label == "defects"
        kinds = [
            PromptKind("defecting" if defects else "triggered", True, not defects, test.positive),
            PromptKind("triggered but harmless", False, True, ~test.positive & test.triggered),
            PromptKind("untriggered", False, False, ~test.positive & ~test.triggered),
        ]
        return [kind for kind in kinds if kind.members.any()]

    def with_control(self, name: str, control: Control) -> ProbeResult:
        """The same result with one more control, such as `clean_twin`."""
        return replace(self, controls={**self.controls, name: control})

    def as_control(self, **details: Any) -> Control:
        """This result's test AUROC as a control of another, such as the same pipeline run on the clean twin."""
        return Control(self.best.auroc, details={"best_layer": self.best.layer, **details})


def metrics_json(result: ProbeResult) -> dict[str, Any]:
    """The result as one JSON object, without anything that depends on the clock or the machine."""
    probe = result.probe
    out: dict[str, Any] = {
        "model": probe.model,
        "backend": result.backend,
        "site": probe.site,
        "position": probe.aggregation,
        "probe": probe.method,
        "label": probe.label,
        "best_layer": probe.layer,
        "test": _test_json(result),
        "per_layer": [_layer_json(layer) for layer in result.layers],
        "controls": {name: control.to_json() for name, control in result.controls.items()},
        "splits": dict(result.split_sizes),
        "calibration": dict(probe.calibration),
        "config": asdict(result.config),
        "notes": list(result.notes),
    }
    if result.answers is not None:
        out |= {"read": probe.read, "answers": result.answers.to_json()}
    return out


def _test_json(result: ProbeResult) -> dict[str, Any]:
    best = result.best.auroc
    out: dict[str, Any] = {"auroc": best.value, "auroc_ci": best.interval}
    for point in result.tpr:
        key = f"tpr_at_fpr_{point.fpr:g}"
        out |= {key: point.tpr.value, f"{key}_ci": point.tpr.interval}
        if point.note:
            out[f"{key}_note"] = point.note
    out |= {"n_positive": result.n_positive, "n_negative": result.n_negative}
    worst, rate = result.worst
    out["at_threshold"] = {
        "value": result.probe.threshold,
        "detected": to_json(result.detected),
        "false_positives": {name: to_json(each) for name, each in result.false_positives.items()},
        "worst_dataset": worst,
        "worst_false_positive_rate": rate.value,
    }
    return out


def _layer_json(layer: LayerResult) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "site": layer.site,
        "auroc": layer.auroc.value,
        "auroc_ci": layer.auroc.interval,
        "tpr_at_fpr_0.01": layer.tpr_at_fpr_01,
        "validation_auroc": layer.validation_auroc,
        "triggered_but_harmless_auroc": layer.harmless_auroc,
    }
