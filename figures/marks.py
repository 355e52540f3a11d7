"""Marks with their intervals; dots in rows, a panel for each model, are what most figures here are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Finding
from triggerlens import GRID, INK, MUTED, Estimate, axis_ends, error_bars, finish, label_text

THIN = {"thickness": 1.2, "width": 0}
"""Error bars without ends."""


@dataclass(frozen=True)
class Series:
    """One kind of dot."""

    name: str
    style: Mapping[str, Any]
    """`color` and `symbol`."""
    values: Mapping[str, Estimate]
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
    """Ends of the axis; further where a number or its interval reaches beyond."""


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
        cols=len(panels),
        shared_yaxes=True,
        subplot_titles=[label_text(panel.title) for panel in panels],
        horizontal_spacing=0.03,
    )
    named: set[str] = set()
    for column, panel in enumerate(panels, 1):
        for number, series in enumerate(panel.series):
            offset = (number - (len(panel.series) - 1) / 2) * 0.5 / max(1, len(panel.series) - 1)
            _add(figure, series, rows, offset, column, show=series.name not in named)
            named.add(series.name)
        for value, dash in panel.references:
            line = {"color": INK, "dash": dash, "width": 1}
            figure.add_vline(x=value, line=line, layer="below", row=1, col=column)
        shown = [series.values[name] for series in panel.series for name in rows if name in series.values]
        figure.update_xaxes(title=panel.axis, range=axis_ends(panel.span, shown), row=1, col=column)
    for dash, text in layout.notes:
        line = {"color": INK, "dash": dash, "width": 1}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=text, row=1, col=1)
    ticks = {
        "tickvals": list(range(len(rows))),
        "ticktext": list(map(label_text, rows)),
        "range": [len(rows) - 0.5, -0.5],
    }
    figure.update_yaxes(zeroline=False, **ticks)
    for edge in range(1, len(rows)):
        figure.add_hline(y=edge - 0.5, line={"color": GRID, "width": 1}, layer="below")
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
    kept = [(row, series.values[name]) for row, name in enumerate(rows) if name in series.values]
    figure.add_scatter(
        x=[estimate.value for _, estimate in kept],
        y=[row + offset for row, _ in kept],
        error_x=error_bars(estimate for _, estimate in kept) | THIN,
        mode="markers",
        marker={"size": 6, **series.style},
        name=series.name,
        legendgroup=series.name,
        showlegend=show,
        customdata=[label_text(rows[row]) for row, _ in kept],
        hovertemplate="%{customdata}: %{x:.3f}<extra>" + series.name + "</extra>",
        row=1,
        col=column,
    )


def by_row(findings: Sequence[Finding], row: Callable[[Any], str | None]) -> dict[str, Estimate]:
    """Estimates by the row that each finding's arm stands in; those whose arm has none are left out."""
    rows = [(row(finding.arm), finding.estimate) for finding in findings]
    return {name: estimate for name, estimate in rows if name is not None}
