"""The scoreboard as a picture: what is left of the defection against what it costs on clean prompts."""

from __future__ import annotations

from itertools import cycle

import plotly.graph_objects as go

from patching.removal.result import MethodResult, Scoreboard
from triggerlens import BLUE, GREEN, INK, MUTED, ORANGE, PINK, SKY, YELLOW, label_text, style_figure

_COLOURS = (ORANGE, BLUE, GREEN, PINK, YELLOW, SKY, INK)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "hexagon", "pentagon", "cross")
_LEAST = 1e-7
"""Divergences below it are drawn there: the axis is logarithmic."""
GOOD_DIVERGENCE = 0.01


def scoreboard_figure(board: Scoreboard) -> go.Figure:
    """Defection rate with its interval against Jensen–Shannon divergence; placebos are hollow and grey; the corner where a
    removal belongs is shaded."""
    figure = go.Figure()
    figure.add_shape(
        type="rect",
        x0=_LEAST,
        x1=GOOD_DIVERGENCE,
        y0=-0.02,
        y1=max(0.02, board.target),
        fillcolor=GREEN,
        opacity=0.15,
        line_width=0,
    )
    own = [method for method in board.methods if not method.is_placebo]
    style = zip(own, cycle(_COLOURS), cycle(_SYMBOLS), strict=False)
    looks = {method.name: (colour, symbol) for method, colour, symbol in style}
    for method in board.methods:
        colour, symbol = looks.get(method.placebo_of or method.name, (MUTED, "x"))
        if method.is_placebo:
            figure.add_trace(_mark(method, MUTED, f"{symbol}-open"))
        else:
            figure.add_trace(_mark(method, colour, symbol))
    style_figure(figure, height=520)
    figure.update_layout(legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}, margin={"r": 230})
    figure.update_xaxes(
        type="log",
        title="Jensen–Shannon divergence a step on clean prompts (nats)",
        range=[-7.2, 0],
        exponentformat="power",
    )
    figure.update_yaxes(title="defection rate with the trigger", range=[-0.04, 1.04], tickformat=".0%")
    return figure


def _mark(method: MethodResult, colour: str, symbol: str) -> go.Scatter:
    rate, js = method.defection_rate, method.js
    return go.Scatter(
        x=[max(js, _LEAST)],
        y=[rate.value],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [rate.high - rate.value],
            "arrayminus": [rate.value - rate.low],
            "thickness": 1,
        },
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 12, "line": {"width": 1.5, "color": colour}},
        name=label_text(method.name),
        hovertemplate=f"{label_text(method.name)}<br>defection %{{y:.1%}}<br>divergence {js:.2g}<extra></extra>",
    )
