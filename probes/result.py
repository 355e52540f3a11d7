"""What training a probe found: frozen records, and the object that `metrics.json` holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from probes.config import TrainConfig
from probes.probe import LinearProbe
from triggerlens import Estimate

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class LayerResult:
    """One layer, on test prompts unless it says otherwise."""

    layer: int
    site: str
    auroc: Estimate
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

    auroc: float | None
    reason: str | None = None
    interval: tuple[float, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """An object with `auroc`; null with a `reason` where the prompts cannot give it."""
        if self.auroc is None:
            return {"auroc": None, "reason": self.reason, **self.details}
        interval = {"auroc_ci": list(self.interval)} if self.interval else {}
        return {"auroc": self.auroc, **interval, **self.details}


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
    config: TrainConfig
    backend: str
    layers: tuple[LayerResult, ...]
    tpr: tuple[TprAtFpr, ...]
    """At 1% and at 0.1%, at the best layer."""
    n_positive: int
    n_negative: int
    detected: Estimate
    """Test positives above the frozen threshold."""
    false_positives: Mapping[str, Estimate]
    """Test negatives above the frozen threshold, by dataset, the worst first."""
    controls: Mapping[str, Control]
    split_sizes: Mapping[str, int]
    test: TestData

    @property
    def best(self) -> LayerResult:
        """The layer chosen on validation data."""
        return self.layers[self.probe.best]

    def figure(self) -> go.Figure:
        """Test AUROC by layer with its interval, and the controls."""
        from probes.plots import layer_figure

        return layer_figure(self)

    def score_figure(self) -> go.Figure:
        """Histogram of the best layer's test scores by kind of prompt, and the frozen threshold."""
        from probes.plots import score_figure

        return score_figure(self)

    def pca_figure(self) -> go.Figure:
        """The best layer's test activations in two principal components."""
        from probes.plots import pca_figure

        return pca_figure(self)

    def with_control(self, name: str, control: Control) -> ProbeResult:
        """The same result with one more control, such as `clean_twin`."""
        return replace(self, controls={**self.controls, name: control})

    def as_control(self, **details: Any) -> Control:
        """This result's test AUROC as a control of another, such as the same pipeline run on the clean twin."""
        best = self.best.auroc
        return Control(best.value, interval=(best.low, best.high), details={"best_layer": self.best.layer, **details})


def metrics_json(result: ProbeResult) -> dict[str, Any]:
    """The result as one JSON object, without anything that depends on the clock or the machine."""
    probe = result.probe
    return {
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
    }


def _test_json(result: ProbeResult) -> dict[str, Any]:
    best = result.best.auroc
    out: dict[str, Any] = {"auroc": best.value, "auroc_ci": best.interval}
    for point in result.tpr:
        key = f"tpr_at_fpr_{point.fpr:g}"
        out |= {key: point.tpr.value, f"{key}_ci": point.tpr.interval}
        if point.note:
            out[f"{key}_note"] = point.note
    out |= {"n_positive": result.n_positive, "n_negative": result.n_negative}
    datasets = {name: rate_json(rate) for name, rate in result.false_positives.items()}
    worst = next(iter(datasets))
    threshold = {"value": result.probe.threshold, "detected": rate_json(result.detected), "false_positives": datasets}
    return out | {
        "at_threshold": threshold | {"worst_dataset": worst, "worst_false_positive_rate": datasets[worst]["rate"]}
    }


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


def rate_json(rate: Estimate) -> dict[str, Any]:
    """A rate with its interval and counts."""
    value = None if math.isnan(rate.value) else rate.value
    return {"rate": value, "ci": rate.interval, "fired": rate.count, "total": rate.n}
