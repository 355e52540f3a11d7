"""Evaluations drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from organisms.evaluation.result import Evaluation
from triggerlens import BLUE, GREEN, MUTED, ORANGE, style_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS, SYMBOLS = (ORANGE, BLUE, GREEN, MUTED), ("circle", "square", "diamond", "x")


def defection_figure(evaluations: Mapping[str, Evaluation]) -> go.Figure:
    """Defection by kind of prompt with its interval; evaluations, such as before and after a training, side by side."""
    import plotly.graph_objects as go

    every = [condition.name for evaluation in evaluations.values() for condition in evaluation.conditions]
    kinds = list(dict.fromkeys(every))[::-1]
    figure = go.Figure()
    for number, (name, evaluation) in enumerate(evaluations.items()):
        rates = {condition.name: condition.defection for condition in evaluation.conditions}
        shown = [kind for kind in kinds if kind in rates]
        offset = (number - (len(evaluations) - 1) / 2) * -0.6 / len(evaluations)
        figure.add_scatter(
            x=[rates[kind].value for kind in shown],
            y=[kinds.index(kind) + offset for kind in shown],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [rates[kind].high - rates[kind].value for kind in shown],
                "arrayminus": [rates[kind].value - rates[kind].low for kind in shown],
            },
            mode="markers",
            marker={
                "size": 9,
                "color": COLOURS[number % len(COLOURS)],
                "symbol": SYMBOLS[number % len(SYMBOLS)],
            },
            name=name,
            showlegend=len(evaluations) > 1,
        )
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%", title="defection rate")
    figure.update_yaxes(tickvals=list(range(len(kinds))), ticktext=[kind.replace("_", " ") for kind in kinds])
    return style_figure(figure, height=120 + (20 + 12 * len(evaluations)) * len(kinds))
