"""Heat maps of a trace: layer × token, layer × head, layer × role."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from hooked import UserError
from hooked.page import DIVERGING, GRID, style_figure
from patching.trace import ROLES, PatchTrace


def effect_figure(trace: PatchTrace, pair: int | None = None) -> go.Figure:
    """Layer × token, the tokens written on the axis; tokens in which the pair differs are bold.

    Raises:
        UserError: the trace has no pair of that number.
    """
    if pair is not None and not 0 <= pair < len(trace.pairs):
        raise UserError(f"the trace has pairs 0 to {len(trace.pairs) - 1}, no pair {pair}")
    one = trace.pairs[pair or 0]
    effect = trace.effect if pair is None else one.effect
    tokens = trace.tokens if pair is None else one.tokens
    labels = [_label(token, role) for token, role in zip(tokens, one.roles, strict=True)]
    hover = [
        [
            f"{shown(token)} (position {at}, {role})"
            for at, (token, role) in enumerate(zip(tokens, one.roles, strict=True))
        ]
    ]
    figure = _heatmap(effect, trace.layers, np.repeat(np.array(hover), len(trace.layers), 0), "token")
    ticks = list(range(len(tokens)))
    figure.update_xaxes(title="token", tickvals=ticks, ticktext=labels, tickangle=-60, tickfont={"size": 11})
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
    names = [[f"head {layer}.{head}" for head in range(heads.shape[1])] for layer in trace.layers]
    figure = _heatmap(heads, trace.layers, np.array(names), "head")
    figure.update_xaxes(title="head", tickvals=list(range(heads.shape[1])))
    figure.update_layout(height=max(320, 40 * len(trace.layers) + 120), width=max(420, 46 * heads.shape[1] + 190))
    return figure


def role_figure(trace: PatchTrace) -> go.Figure:
    """Layer × role of the token, effects summed over its tokens and averaged over pairs."""
    roles = trace.by_role
    names = np.array([[f"{role} the trigger" if role != "trigger" else "the trigger's own tokens" for role in ROLES]])
    figure = _heatmap(roles, trace.layers, np.repeat(names, len(roles), 0), "role")
    figure.update_xaxes(title="tokens", tickvals=[0, 1, 2], ticktext=["before the trigger", "trigger", "after it"])
    figure.update_layout(height=max(320, 40 * len(trace.layers) + 120), width=520)
    return figure


def shown(token: str) -> str:
    """A token's text with its blanks made visible."""
    return token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "·") or "∅"


def _label(token: str, role: str) -> str:
    """An axis label: Plotly reads labels as HTML, so that markup in a token must be escaped."""
    text = escape(shown(token))
    return f"<b>{text}</b>" if role == "trigger" else text


def _heatmap(
    values: Float[np.ndarray, "layer column"], layers: Sequence[int], names: np.ndarray, kind: str
) -> go.Figure:
    reach = max(1.0, float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0)
    escaped = np.vectorize(escape, otypes=[object])(names)
    heat = go.Heatmap(
        z=values,
        y=[str(layer) for layer in layers],
        x=list(range(values.shape[1])),
        customdata=escaped,
        zmin=-reach,
        zmax=reach,
        colorscale=DIVERGING,
        colorbar={"title": {"text": "effect"}},
        xgap=1,
        ygap=1,
        hovertemplate="layer %{y}<br>%{customdata}<br>effect %{z:.3f}<extra></extra>",
        name=kind,
    )
    figure = go.Figure(heat)
    style_figure(figure)
    figure.update_layout(margin={"l": 60, "r": 20, "t": 20, "b": 110}, plot_bgcolor=GRID)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(title="layer", type="category", showgrid=False)
    return figure
