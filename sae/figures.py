"""Pictures of training: curves by step, and the frontier of sparsity against error."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hooked.page import BLUE, GREEN, INK, ORANGE, PINK, SKY, YELLOW, style_figure
from sae.on_model import TrainedSae

_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, INK)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
_QUANTITIES = (("loss", "loss"), ("fvu", "FVU"), ("l0", "L0"), ("dead", "dead latents"))


def curves_figure(trained: Sequence[TrainedSae]) -> go.Figure:
    """Loss, fraction of variance unexplained, L0 and share of dead latents by step, of training batches."""
    figure = make_subplots(2, 2, subplot_titles=[title for _, title in _QUANTITIES], vertical_spacing=0.14)
    for at, one in enumerate(trained):
        for panel, (name, _) in enumerate(_QUANTITIES):
            figure.add_scatter(
                x=[point.step for point in one.curve],
                y=[getattr(point, name) for point in one.curve],
                name=one.recipe.name,
                legendgroup=one.recipe.name,
                showlegend=panel == 0,
                line={"color": _COLOURS[at % len(_COLOURS)], "width": 1.5},
                row=panel // 2 + 1,
                col=panel % 2 + 1,
            )
    style_figure(figure, height=620)
    figure.update_layout(legend={"orientation": "h", "yanchor": "top", "y": -0.08, "x": 0}, margin={"b": 80})
    figure.update_yaxes(tickformat=".0%", row=2, col=2)
    return figure


def frontier_figure(trained: Sequence[TrainedSae]) -> go.Figure:
    """L0 against fraction of variance unexplained, on held-out prompts: down and left is better."""
    figure = go.Figure()
    names = list(dict.fromkeys((one.recipe.architecture, one.recipe.width) for one in trained))
    for at, (architecture, width) in enumerate(names):
        points = [one for one in trained if (one.recipe.architecture, one.recipe.width) == (architecture, width)]
        points.sort(key=lambda one: one.reconstruction.l0)
        figure.add_scatter(
            x=[one.reconstruction.l0 for one in points],
            y=[one.reconstruction.fvu for one in points],
            text=[one.recipe.name for one in points],
            name=f"{architecture}, width {width:,}",
            mode="lines+markers",
            marker={"symbol": _SYMBOLS[at % len(_SYMBOLS)], "size": 9},
            line={"color": _COLOURS[at % len(_COLOURS)]},
            hovertemplate="%{text}<br>L0 %{x:.1f}<br>FVU %{y:.3f}<extra></extra>",
        )
    style_figure(figure)
    figure.update_xaxes(title="L0 (latents alive a token)", type="log")
    figure.update_yaxes(title="fraction of variance unexplained", rangemode="tozero")
    return figure
