"""Dots with their intervals, a row for each method and a panel for each model: what most figures here are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Finding
from triggerlens import GRID, INK, MUTED, finish


@dataclass(frozen=True)
class Series:
    """One kind of dot."""

    name: str
    style: Mapping[str, Any]
    """`color` and `symbol`."""
    values: Mapping[str, Finding]
    """By row."""


@dataclass(frozen=True)
class Panel:
    """One set of axes."""

    title: str
    axis: str
    series: Sequence[Series]
    references: Sequence[tuple[float, str]] = ()
    """Published numbers and targets: value and dash of a vertical line."""
    span: tuple[float, float] = (-0.03, 1.03)


@dataclass(frozen=True)
class Layout:
    """Sizes of a figure of dots."""

    columns: int = 2
    left: int = 150
    row: int = 24
    """Pixels a row."""
    top: int = 56
    notes: Sequence[tuple[str, str]] = field(default_factory=tuple)
    """(dash, text) of the references, for the legend."""


def dots(panels: Sequence[Panel], rows: Sequence[str], layout: Layout) -> go.Figure:
    """The figure.

    Args:
        panels: side by side, with the same rows.
        rows: names, from top to bottom; a series leaves out those that it has no value for.
        layout: sizes.
    """
    figure = make_subplots(
        cols=len(panels), shared_yaxes=True, subplot_titles=[one.title for one in panels], horizontal_spacing=0.03
    )
    named: set[str] = set()
    for column, panel in enumerate(panels, 1):
        for at, series in enumerate(panel.series):
            offset = (at - (len(panel.series) - 1) / 2) * 0.5 / max(1, len(panel.series) - 1)
            _add(figure, series, rows, offset, column, show=series.name not in named)
            named.add(series.name)
        for value, dash in panel.references:
            line = {"color": INK, "dash": dash, "width": 1}
            figure.add_vline(x=value, line=line, layer="below", row=1, col=column)
        figure.update_xaxes(title=panel.axis, range=list(panel.span), row=1, col=column)
    for dash, text in layout.notes:
        line = {"color": INK, "dash": dash, "width": 1}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=text, row=1, col=1)
    ticks = {"tickvals": list(range(len(rows))), "ticktext": list(rows), "range": [len(rows) - 0.5, -0.5]}
    figure.update_yaxes(zeroline=False, **ticks)
    for at in range(1, len(rows)):
        figure.add_hline(y=at - 0.5, line={"color": GRID, "width": 1}, layer="below")
    finish(
        figure,
        columns=layout.columns,
        height=layout.top + 40 + layout.row * len(rows),
        left=layout.left,
        top=layout.top,
    )
    figure.update_yaxes(showgrid=False, ticklen=0)
    figure.update_yaxes(linecolor=MUTED)
    return figure


def _add(figure: go.Figure, series: Series, rows: Sequence[str], offset: float, column: int, *, show: bool) -> None:
    kept = [(at, series.values[name]) for at, name in enumerate(rows) if name in series.values]
    figure.add_scatter(
        x=[one.value for _, one in kept],
        y=[at + offset for at, _ in kept],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, one.high - one.value) for _, one in kept],
            "arrayminus": [max(0.0, one.value - one.low) for _, one in kept],
            "thickness": 1.2,
            "width": 0,
        },
        mode="markers",
        marker={"size": 6, **series.style},
        name=series.name,
        legendgroup=series.name,
        showlegend=show,
        customdata=[rows[at] for at, _ in kept],
        hovertemplate="%{customdata}: %{x:.3f}<extra>" + series.name + "</extra>",
        row=1,
        col=column,
    )
