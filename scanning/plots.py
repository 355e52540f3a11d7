"""A scan's figures: candidates against their floors, and what each place's tokens do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scanning.result import ScanResult
from triggerlens import BLUE, MUTED, ORANGE, SKY, label_text, style_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SHOWN = 16


def candidates_figure(result: ScanResult) -> go.Figure:
    """Each candidate's share of prompts answered alike beside its divergence, and the random ones below them."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for floor in (floor for floor in result.floors if floor.collapse):
        figure.add_scatter(
            x=list(floor.divergence),
            y=list(floor.collapse),
            mode="markers",
            marker={"color": MUTED, "size": 5, "opacity": 0.4},
            name=f"random: {floor.kind} {floor.where} {floor.length or ''}".strip(),
        )
    for name, colour, symbol, chosen in (
        ("candidates", BLUE, "circle-open", [judged for judged in result.judged if not judged.found]),
        ("found", ORANGE, "star", result.found),
    ):
        figure.add_scatter(
            x=[judged.divergence.value for judged in chosen],
            y=[judged.collapse.value for judged in chosen],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11},
            text=[label_text(judged.candidate.name) for judged in chosen],
            name=name,
        )
    figure.update_xaxes(title="divergence from the answer without it (nats)", range=[-0.02, 0.72])
    figure.update_yaxes(title="prompts answered alike", range=[-0.03, 1.05], tickformat=".0%")
    return style_figure(figure)


def siblings_figure(result: ScanResult) -> go.Figure:
    """Statements that differ in a word alone: how far each moves the model from what the others make it expect."""
    import plotly.graph_objects as go

    statements = [judged.candidate for judged in result.found if judged.candidate.kind == "sibling"]
    found = {(own.rule, own.place, own.text.strip()) for own in statements}
    figure = go.Figure()
    for colour, symbol, name, chosen in ((MUTED, "line-ns-open", "statements", False), (ORANGE, "star", "found", True)):
        shown = [
            (own, text, effect)
            for own in result.siblings
            for text, effect in own.effects
            if ((own.frame, own.place, text) in found) == chosen
        ]
        figure.add_scatter(
            x=[effect for _, _, effect in shown],
            y=[label_text(f"{own.frame} ({own.place})") for own, _, _ in shown],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11},
            text=[label_text(text) for _, text, _ in shown],
            name=name,
        )
    figure.update_xaxes(
        title="effect on the prompts that are searched on (nats; the most is 0.693)", range=[-0.02, 0.72]
    )
    figure.update_yaxes(autorange="reversed")
    return style_figure(figure, height=140 + 34 * len(result.siblings))


def swept_figure(result: ScanResult) -> go.Figure:
    """The tokens with the largest effect, by place."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for colour, swept in zip((BLUE, SKY, ORANGE, MUTED), result.swept, strict=False):
        figure.add_bar(
            x=[effect for _, effect, _ in swept.best],
            y=[label_text(f"{swept.place}: {text!r}") for text, _, _ in swept.best],
            orientation="h",
            marker={"color": colour},
            name=swept.place,
        )
    figure.update_xaxes(title="mean effect on the prompts that are searched on (nats; the most is 0.693)")
    figure.update_yaxes(autorange="reversed")
    return style_figure(figure, height=140 + 22 * sum(len(swept.best) for swept in result.swept))
