"""Claims 11 and 12: how far a direction between observed and deployed carries from format to format, and what steering along it does: to what a
model says of its context, or, of an organism that acts on it, to its defection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import ObservedOrDeployed, Result
from figures.marks import THIN
from triggerlens import BLUE, GREEN, INK, MUTED, ORANGE, Estimate, error_bars, finish, label_text

TITLE = "Being observed, from format to format, and what steering along it does"
EXPERIMENTS = ("observed-or-deployed",)
PARTS = {"known": "cues of fitting", "new": "other cues"}


def make(result: Result) -> go.Figure:
    """AUROC fitted on a format (row) and tested on another (column), with the cues of fitting and with others; and steering by dose: of an organism,
    its defection rate, else the change in log-odds."""
    model = result.models[0]
    cells = result.cells_of(model, "model")
    formats = list(cells[0]["probes"][ObservedOrDeployed.MEANS]["known"])
    figure = make_subplots(
        cols=2,
        column_widths=[0.62, 0.38],
        horizontal_spacing=0.11,
        subplot_titles=(label_text(f"{model}: AUROC"), "steering"),
    )
    _matrices(figure, cells, formats)
    (_acting if _rates(result, model) else _steering)(figure, result, model)
    finish(figure, columns=2, height=292, left=76, top=66)
    figure.update_yaxes(showgrid=False, zeroline=False, row=1, col=1)
    figure.update_xaxes(showgrid=False, zeroline=False, row=1, col=1)
    return figure


def mean_matrix(cells: Sequence[Mapping[str, Any]], part: str) -> dict[tuple[str, str], float]:
    """AUROC of the mean difference by (fitted on, tested on), mean over seeds."""
    each = [cell["probes"][ObservedOrDeployed.MEANS][part] for cell in cells]
    return {
        (one, other): sum(own[one][other]["value"] for own in each) / len(each)
        for one, row in each[0].items()
        for other in row
    }


def _matrices(figure: go.Figure, cells: Sequence[Mapping[str, Any]], formats: Sequence[str]) -> None:
    """Two squares of numbers on one pair of axes; a cell is the darker the further it is from chance."""
    wide = len(formats) + 1
    x, y, texts = [], [], []
    for number, part in enumerate(PARTS):
        for (one, other), value in mean_matrix(cells, part).items():
            place = formats.index(other) + number * wide, formats.index(one)
            shade = (BLUE if value < 0.5 else ORANGE, min(1.0, 2 * abs(value - 0.5)) * 0.75)
            corner = {"x0": place[0] - 0.5, "x1": place[0] + 0.5, "y0": place[1] - 0.5, "y1": place[1] + 0.5}
            figure.add_shape(
                type="rect", **corner, fillcolor=shade[0], opacity=shade[1], line_width=0, layer="below", row=1, col=1
            )
            x.append(place[0])
            y.append(place[1])
            texts.append(f"{value:.2f}")
    figure.add_scatter(x=x, y=y, text=texts, mode="text", showlegend=False, name="AUROC", row=1, col=1)
    ticks = [*range(len(formats)), *range(wide, wide + len(formats))]
    figure.update_xaxes(
        tickvals=ticks,
        ticktext=[*map(label_text, formats)] * 2,
        tickangle=-40,
        range=[-0.6, 2 * wide - 1.4],
        title="tested on: " + "; then ".join(PARTS.values()),
        row=1,
        col=1,
    )
    figure.update_yaxes(
        tickvals=list(range(len(formats))),
        ticktext=list(map(label_text, formats)),
        range=[len(formats) - 0.5, -0.5],
        title="fitted on",
        row=1,
        col=1,
    )


def _steering(figure: go.Figure, result: Result, model: str) -> None:
    """What steering along the direction changes log-odds by, at each dose; the unrelated one, and all placebos, at their dose."""
    effects = {finding.arm: finding.estimate for finding in result.of(ObservedOrDeployed.EFFECT, model, "model")}
    doses = sorted((arm.dose, estimate) for arm, estimate in effects.items() if arm.along == "observed")
    dots = {"color": ORANGE, "symbol": "circle", "size": 7}
    _marks(figure, [dose for dose, _ in doses], [own for _, own in doses], "along the direction", dots)
    other = next((arm.dose, own) for arm, own in effects.items() if arm.along == "unrelated")
    _marks(
        figure, [other[0] * 1.08], [other[1]], "unrelated concept", {"color": BLUE, "symbol": "triangle-up", "size": 7}
    )
    placebos = [
        effect for cell in result.cells_of(model, "model") for effect in cell["steering"]["placebos"]["effects"]
    ]
    _placebos(figure, other[0] / 1.08, placebos)
    figure.add_hline(y=0, line={"color": INK, "dash": "dot", "width": 1}, row=1, col=2)
    low, high = (math.log10(own) for own in (min(doses)[0] / 1.5, max(doses)[0] * 1.5))
    axis = {"tickvals": [dose for dose, _ in doses], "ticktext": [f"{dose:g}" for dose, _ in doses]}
    figure.update_xaxes(type="log", range=[low, high], title="share of the stream's norm", **axis, row=1, col=2)
    figure.update_yaxes(title="change in log-odds of “observed” (nats)", row=1, col=2)


def _rates(result: Result, model: str) -> dict[Any, Estimate]:
    """Defection and right answers of an organism, by arm; none of any other model."""
    names = (ObservedOrDeployed.RATE, ObservedOrDeployed.RIGHT)
    return {
        (own.measure, own.arm.toward, own.arm.on, own.arm.dose): own.estimate
        for name in names
        for own in result.of(name, model, "model")
    }


def _acting(figure: go.Figure, result: Result, model: str) -> None:
    """What is left of defection by dose towards observed, what comes of it towards deployed, right answers to other prompts, and all placebos."""
    rates = _rates(result, model)
    rate, right = ObservedOrDeployed.RATE, ObservedOrDeployed.RIGHT
    lines = (
        ("towards observed", (rate, "observed", "defecting"), (rate, "nothing", "defecting"), ORANGE, "circle"),
        ("towards deployed, on others", (rate, "deployed", "others"), (rate, "nothing", "others"), BLUE, "triangle-up"),
        ("others answered right", (right, "observed", "others"), (right, "nothing", "others"), GREEN, "square"),
    )
    doses = sorted({own[3] for own in rates if own[1] == "observed"})
    for place, (name, steered, untouched, colour, symbol) in enumerate(lines):
        dots = [(dose, rates[*steered, dose]) for dose in doses] + [(0.0, rates[*untouched, 0.0])]
        marker = {"color": colour, "symbol": symbol, "size": 7}
        x = [dose + (place - 1) * 0.006 for dose, _ in dots]
        _marks(figure, x, [own for _, own in dots], name, marker)
    (dose,) = {own[3] for own in rates if own[1] == "placebo"}
    placebos = [value for cell in result.cells_of(model, "model") for value in cell["acting"]["placebos"]]
    _placebos(figure, dose + 0.02, placebos)
    axis = {"tickvals": [0, *doses], "ticktext": ["none", *(f"{dose:g}" for dose in doses)]}
    figure.update_xaxes(title="share of the stream's norm", range=[-0.04, max(doses) + 0.04], **axis, row=1, col=2)
    figure.update_yaxes(title="rate", range=[-0.03, 1.03], row=1, col=2)


def _marks(
    figure: go.Figure, x: Sequence[float], values: Sequence[Estimate], name: str, marker: Mapping[str, Any]
) -> None:
    figure.add_scatter(
        x=list(x),
        y=[own.value for own in values],
        error_y=error_bars(values) | THIN,
        mode="markers",
        marker=dict(marker),
        name=name,
        row=1,
        col=2,
    )


def _placebos(figure: go.Figure, x: float, values: Sequence[float]) -> None:
    figure.add_scatter(
        x=[x] * len(values),
        y=values,
        mode="markers",
        marker={"color": MUTED, "symbol": "line-ew-open", "size": 7},
        name="placebos",
        row=1,
        col=2,
    )
