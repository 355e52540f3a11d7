"""Pictures of trigger latents: the best latent beside its baselines."""

from __future__ import annotations

import plotly.graph_objects as go

from sae.trigger_latents.result import LABELS, TriggerLatents
from triggerlens import BLUE, MUTED, ORANGE, UserError, axis_ends, error_bars, style_figure


def features(result: TriggerLatents, label: str = "defects") -> go.Figure:
    """Test AUROC with its interval: the best latent, each baseline's best feature, the shuffled control; best on top.

    Raises:
        UserError: no latent was ranked for that label.
    """
    best = result.best(label) if label in LABELS else None
    if best is None:
        raise UserError(
            f"no latent was ranked for {label!r}; choose one of {', '.join(LABELS)} in which prompts differ"
        )
    scores = {f"latent {best.latent}": best, **result.baselines[label]}
    if label in result.own:
        scores["a latent of the first model alone"] = result.own[label].best
    if (shuffled := result.shuffled[label]) is not None:
        scores["a latent, shuffled labels"] = shuffled
    rows = sorted(scores.items(), key=lambda item: item[1].auroc.value)
    figure = go.Figure()
    figure.add_scatter(
        x=[score.auroc.value for _, score in rows],
        y=[name for name, _ in rows],
        error_x=error_bars(score.auroc for _, score in rows),
        mode="markers",
        marker={
            "size": 10,
            "color": [ORANGE if score is best else BLUE for _, score in rows],
            "symbol": ["circle" if score is best else "square" for _, score in rows],
        },
        showlegend=False,
    )
    figure.add_vline(x=0.5, line={"color": MUTED, "dash": "dot"})
    figure.update_xaxes(title=f"test AUROC, {label}", range=axis_ends((0.35, 1.02), [score.auroc for _, score in rows]))
    return style_figure(figure, height=130 + 34 * len(rows))
