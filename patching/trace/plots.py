"""Pictures of a trace: layer × token, layer × head, layer × role, and the route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from patching.options import ROLES, Role
from patching.trace.result import PairMap, PatchTrace
from patching.trace.route import HeadRoute
from patching.trace.verdict import shown
from triggerlens import DIVERGING, GRID, INK, UserError, label_text, style_figure


def effect_figure(trace: PatchTrace, pair: int | None = None) -> go.Figure:
    """Layer × token, the tokens written on the axis; tokens in which the pair differs are bold.

    Raises:
        UserError: the trace has no pair of that number.
    """
    if pair is not None and not 0 <= pair < len(trace.pairs):
        raise UserError(f"the trace has pairs 0 to {len(trace.pairs) - 1}, no pair {pair}")
    source: PatchTrace | PairMap = trace if pair is None else trace.pairs[pair]
    effect, tokens, roles = source.effect, source.tokens, source.roles
    figure = _heatmap(effect, trace.layers, _token_names(tokens, roles, len(trace.layers)), "token")
    figure.update_xaxes(_token_axis(tokens, roles))
    figure.update_layout(height=max(320, 40 * len(trace.layers) + 190), width=max(640, 22 * len(tokens) + 190))
    return figure


def head_figure(trace: PatchTrace) -> go.Figure:
    """Layer × head, each head patched at all positions at once.

    Raises:
        UserError: heads were not traced.
    """
    heads = trace.heads
    if heads is None:
        raise UserError("this trace has no heads; trace again with heads=True")
    figure = _heatmap(heads, trace.layers, _head_names(trace), "head")
    figure.update_xaxes(title="head", tickvals=list(range(heads.shape[1])))
    figure.update_layout(height=max(320, 40 * len(trace.layers) + 120), width=max(420, 46 * heads.shape[1] + 190))
    return figure


def route_figure(trace: PatchTrace) -> go.Figure:
    """The route in one picture: layer × token with an arrow for each head that carries the trigger, and layer × head.

    An arrow goes from the token to which the head attends most (upright where that is not known), at its layer, to the token
    at which its output matters most, one layer on; it is as thick as the head's effect is large.

    Raises:
        UserError: no head carries the trigger, or heads were not mapped.
    """
    if not trace.routes or trace.heads is None:
        raise UserError(
            "this trace has no route: no head's output has an effect by denoising, or heads were not mapped"
        )
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.75, 0.25],
        horizontal_spacing=0.07,
        subplot_titles=("what carries the trigger where", "heads, at all tokens at once"),
    )
    effect, heads, rows = trace.effect, trace.heads, len(trace.layers)
    reach = max(_reach(effect), _reach(heads))
    names = _token_names(trace.tokens, trace.roles, rows)
    figure.add_trace(_heat(effect, list(range(rows)), names, "token", reach), 1, 1)
    figure.add_trace(_heat(heads, list(range(rows)), _head_names(trace), "head", reach, scale=False), 1, 2)
    for (row, start, to), routes in _arrows(trace).items():
        _draw_arrow(figure, row, start, to, routes)
    style_figure(figure)
    figure.update_layout(
        margin={"l": 60, "r": 20, "t": 40, "b": 110},
        plot_bgcolor=GRID,
        height=max(400, 60 * rows + 230),
        width=max(900, 24 * len(trace.tokens) + 420),
    )
    figure.update_xaxes(_token_axis(trace.tokens, trace.roles), row=1, col=1)
    figure.update_xaxes(title="head", tickvals=list(range(heads.shape[1])), showgrid=False, row=1, col=2)
    layer_axis = {"tickvals": list(range(rows)), "ticktext": [str(layer) for layer in trace.layers], "showgrid": False}
    above = 0.5 if any(route.layer == trace.layers[-1] for route in trace.routes) else 0.0  # room for its arrow
    figure.update_yaxes(layer_axis, range=[-0.5, rows - 0.5 + above])
    figure.update_yaxes(title="layer", row=1, col=1)
    return figure


def _arrows(trace: PatchTrace) -> dict[tuple[int, int, int], list[HeadRoute]]:
    """(row, column read, column written) of the routes; heads that go the same way share an arrow."""
    arrows: dict[tuple[int, int, int], list[HeadRoute]] = {}
    for route in trace.routes:
        to = route.column_written
        start = to if route.column_read is None else route.column_read
        arrows.setdefault((trace.layers.index(route.layer), start, to), []).append(route)
    return arrows


def _draw_arrow(figure: go.Figure, row: int, start: int, to: int, routes: Sequence[HeadRoute]) -> None:
    figure.add_annotation(
        {"x": to, "y": row + 0.85, "ax": start, "ay": row, "xref": "x", "yref": "y", "axref": "x", "ayref": "y"},
        text="",
        showarrow=True,
        arrowhead=3,
        arrowwidth=1 + 3 * min(1.0, max(abs(route.effect) for route in routes)),
        arrowcolor=INK,
    )
    figure.add_annotation(
        x=(start + to) / 2,
        y=row + 0.45,
        text=", ".join(f"{route.layer}.{route.head}" for route in routes),
        showarrow=False,
        font={"size": 11, "color": INK},
        bgcolor="rgba(255,255,255,.8)",
    )


def role_figure(trace: PatchTrace) -> go.Figure:
    """Layer × role of the token, effects summed over its tokens and averaged over pairs."""
    roles = trace.by_role
    names = np.array([[f"{role} the trigger" if role != "trigger" else "the trigger's own tokens" for role in ROLES]])
    figure = _heatmap(roles, trace.layers, np.repeat(names, len(roles), 0), "role")
    figure.update_xaxes(title="tokens", tickvals=[0, 1, 2], ticktext=["before the trigger", "trigger", "after it"])
    figure.update_layout(height=max(320, 40 * len(trace.layers) + 120), width=520)
    return figure


def _head_names(trace: PatchTrace) -> np.ndarray:
    heads = 0 if trace.heads is None else trace.heads.shape[1]
    return np.array([[f"head {layer}.{head}" for head in range(heads)] for layer in trace.layers])


def _token_names(tokens: Sequence[str], roles: Sequence[Role], rows: int) -> np.ndarray:
    names = [
        f"{shown(token)} (column {column}, {role})"
        for column, (token, role) in enumerate(zip(tokens, roles, strict=True))
    ]
    return np.repeat(np.array([names]), rows, 0)


def _token_axis(tokens: Sequence[str], roles: Sequence[Role]) -> dict[str, Any]:
    labels = [_label(token, role) for token, role in zip(tokens, roles, strict=True)]
    return {
        "title": "token",
        "tickvals": list(range(len(labels))),
        "ticktext": labels,
        "tickangle": -60,
        "tickfont": {"size": 11},
        "showgrid": False,
    }


def _label(token: str, role: Role) -> str:
    """An axis label."""
    text = label_text(shown(token))
    return f"<b>{text}</b>" if role == "trigger" else text


def _heatmap(
    values: Float[np.ndarray, "layer column"], layers: Sequence[int], names: np.ndarray, kind: str
) -> go.Figure:
    figure = go.Figure(_heat(values, [str(layer) for layer in layers], names, kind, _reach(values)))
    style_figure(figure)
    figure.update_layout(margin={"l": 60, "r": 20, "t": 20, "b": 110}, plot_bgcolor=GRID)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(title="layer", type="category", showgrid=False)
    return figure


def _reach(values: Float[np.ndarray, "layer column"]) -> float:
    """The effect at which the colour is fullest."""
    return max(1.0, float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0)


def _heat(
    values: Float[np.ndarray, "layer column"],
    rows: Sequence[Any],
    names: np.ndarray,
    kind: str,
    reach: float,
    scale: bool = True,
) -> go.Heatmap:
    return go.Heatmap(
        z=values,
        y=rows,
        x=list(range(values.shape[1])),
        customdata=np.vectorize(label_text, otypes=[object])(names),
        zmin=-reach,
        zmax=reach,
        colorscale=DIVERGING,
        colorbar={"title": {"text": "effect"}},
        showscale=scale,
        xgap=1,
        ygap=1,
        hovertemplate="layer %{y}<br>%{customdata}<br>effect %{z:.3f}<extra></extra>",
        name=kind,
    )
