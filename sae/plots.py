"""Pictures of training: curves by step, and the frontier of sparsity against error."""

from __future__ import annotations

from collections.abc import Iterable

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae.result import TrainedSae
from triggerlens import BLUE, GREEN, INK, ORANGE, PINK, SKY, YELLOW, style_figure

_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, INK)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
_QUANTITIES = (("loss", "loss"), ("fvu", "FVU"), ("l0", "L0"), ("dead", "dead latents"))


def curves(trained: Iterable[TrainedSae]) -> go.Figure:
    """Loss, fraction of variance unexplained, L0 and share of dead latents by step, of training batches.

    Args:
        trained: a `SaeResult`, or some of its autoencoders.
    """
    figure = make_subplots(2, 2, subplot_titles=[title for _, title in _QUANTITIES], vertical_spacing=0.14)
    for number, each in enumerate(trained):
        for panel, (quantity, _) in enumerate(_QUANTITIES):
            figure.add_scatter(
                x=[point.step for point in each.curve],
                y=[getattr(point, quantity) for point in each.curve],
                name=each.recipe.name,
                legendgroup=each.recipe.name,
                showlegend=panel == 0,
                mode="lines" if len(each.curve) > 1 else "markers",
                line={"color": _COLOURS[number % len(_COLOURS)], "width": 1.5},
                row=panel // 2 + 1,
                col=panel % 2 + 1,
            )
    style_figure(figure, height=620)
    figure.update_layout(legend={"orientation": "h", "yanchor": "top", "y": -0.14, "x": 0}, margin={"b": 110})
    figure.update_xaxes(title="step", row=2)
    figure.update_yaxes(tickformat=".1%", rangemode="tozero", row=2, col=2)
    return figure


def frontier(trained: Iterable[TrainedSae]) -> go.Figure:
    """L0 against fraction of variance unexplained, of held-out rows that are not far: down and left is better.

    Args:
        trained: a `SaeResult`, or some of its autoencoders.
    """
    lines: dict[tuple[str, int], list[TrainedSae]] = {}
    for each in trained:
        lines.setdefault((each.recipe.architecture, each.recipe.width), []).append(each)
    figure = go.Figure()
    for number, ((architecture, width), points) in enumerate(lines.items()):
        points.sort(key=lambda each: each.reconstruction.without_far.l0)
        figure.add_scatter(
            x=[each.reconstruction.without_far.l0 for each in points],
            y=[each.reconstruction.without_far.fvu for each in points],
            text=[each.recipe.name for each in points],
            name=f"{architecture}, width {width:,}",
            mode="lines+markers",
            marker={"symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 9},
            line={"color": _COLOURS[number % len(_COLOURS)]},
            hovertemplate="%{text}<br>L0 %{x:.1f}<br>FVU %{y:.3f}<extra></extra>",
        )
    style_figure(figure)
    figure.update_xaxes(title="L0 (latents alive a token)", type="log")
    figure.update_yaxes(title="fraction of variance unexplained, far rows left out", rangemode="tozero")
    return figure
