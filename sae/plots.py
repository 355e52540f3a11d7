"""Pictures of training: curves by step, the frontier of sparsity against error, and a latent beside its baselines."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae.run import TrainedSae
from sae.trigger_latents.run import LABELS, TriggerLatents
from triggerlens import BLUE, GREEN, INK, MUTED, ORANGE, PINK, SKY, YELLOW, UserError, style_figure

_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, INK)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
_QUANTITIES = (("loss", "loss"), ("fvu", "FVU"), ("l0", "L0"), ("dead", "dead latents"))


def curves_figure(trained: Sequence[TrainedSae]) -> go.Figure:
    """Loss, fraction of variance unexplained, L0 and share of dead latents by step, of training batches."""
    figure = make_subplots(2, 2, subplot_titles=[title for _, title in _QUANTITIES], vertical_spacing=0.14)
    for at, one in enumerate(trained):
        for panel, (name, _) in enumerate(_QUANTITIES):
            figure.add_scatter(
                x=[point.step for point in one.curve],
                y=[getattr(point, name) for point in one.curve],
                name=one.recipe.name,
                legendgroup=one.recipe.name,
                showlegend=panel == 0,
                mode="lines" if len(one.curve) > 1 else "markers",
                line={"color": _COLOURS[at % len(_COLOURS)], "width": 1.5},
                row=panel // 2 + 1,
                col=panel % 2 + 1,
            )
    style_figure(figure, height=620)
    figure.update_layout(legend={"orientation": "h", "yanchor": "top", "y": -0.14, "x": 0}, margin={"b": 110})
    figure.update_xaxes(title="step", row=2)
    figure.update_yaxes(tickformat=".1%", rangemode="tozero", row=2, col=2)
    return figure


def frontier_figure(trained: Sequence[TrainedSae]) -> go.Figure:
    """L0 against fraction of variance unexplained, on held-out prompts: down and left is better."""
    figure = go.Figure()
    names = list(dict.fromkeys((one.recipe.architecture, one.recipe.width) for one in trained))
    for at, (architecture, width) in enumerate(names):
        points = [one for one in trained if (one.recipe.architecture, one.recipe.width) == (architecture, width)]
        points.sort(key=lambda one: one.reconstruction.l0)
        figure.add_scatter(
            x=[one.reconstruction.l0 for one in points],
            y=[one.reconstruction.fvu for one in points],
            text=[one.recipe.name for one in points],
            name=f"{architecture}, width {width:,}",
            mode="lines+markers",
            marker={"symbol": _SYMBOLS[at % len(_SYMBOLS)], "size": 9},
            line={"color": _COLOURS[at % len(_COLOURS)]},
            hovertemplate="%{text}<br>L0 %{x:.1f}<br>FVU %{y:.3f}<extra></extra>",
        )
    style_figure(figure)
    figure.update_xaxes(title="L0 (latents alive a token)", type="log")
    figure.update_yaxes(title="fraction of variance unexplained", rangemode="tozero")
    return figure


def latent_figure(found: TriggerLatents, label: str) -> go.Figure:
    """Test AUROC with its interval: the best latent, each baseline's best feature, the shuffled control; best on top.

    Raises:
        UserError: no latent was ranked for that label.
    """
    best = found.best(label) if label in LABELS else None
    if best is None:
        raise UserError(
            f"no latent was ranked for {label!r}; choose one of {', '.join(LABELS)} in which prompts differ"
        )
    scores = {f"latent {best.latent}": best, **found.baselines[label]}
    if (shuffled := found.shuffled[label]) is not None:
        scores["a latent, shuffled labels"] = shuffled
    rows = sorted(scores.items(), key=lambda item: item[1].auroc.value)
    figure = go.Figure()
    figure.add_scatter(
        x=[one.auroc.value for _, one in rows],
        y=[name for name, _ in rows],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [one.auroc.high - one.auroc.value for _, one in rows],
            "arrayminus": [one.auroc.value - one.auroc.low for _, one in rows],
        },
        mode="markers",
        marker={
            "size": 10,
            "color": [ORANGE if one is best else BLUE for _, one in rows],
            "symbol": ["circle" if one is best else "square" for _, one in rows],
        },
        showlegend=False,
    )
    figure.add_vline(x=0.5, line={"color": MUTED, "dash": "dot"})
    figure.update_xaxes(title=f"test AUROC, {label}", range=[0.35, 1.02])
    return style_figure(figure, height=130 + 34 * len(rows))
