"""The figure of a probe that reads answers: AUROC against the number of answer tokens seen."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from probes.answers.result import AnswerPoint, AnswerResult
from triggerlens import BLUE, GREEN, INK, MUTED, ORANGE, Estimate, style_figure


def tokens_seen(answers: AnswerResult, before: Estimate | None = None) -> go.Figure:
    """AUROC of the running score after so many answer tokens, and of a bag of the same tokens; at 0, a probe of the prompt's last token.

    Args:
        answers: what was measured.
        before: the prompt's last token; left out where None.
    """
    figure, points = go.Figure(), answers.curve
    x = [_place(point.tokens) for point in points]
    low, high = [point.auroc.low for point in points], [point.auroc.high for point in points]
    band = {"mode": "lines", "fill": "toself", "fillcolor": "rgba(213,94,0,0.15)", "line": {"width": 0}}
    figure.add_scatter(x=x + x[::-1], y=high + low[::-1], name="95% interval", hoverinfo="skip", **band)
    _line(figure, points, [point.auroc.value for point in points], "probe, after so many tokens", ORANGE, "solid")
    _line(figure, points, [point.text_auroc for point in points], "bag of the same tokens", BLUE, "dash")
    if points and points[0].harmless_auroc is not None:
        _line(figure, points, [point.harmless_auroc for point in points], "harmless vs untriggered", GREEN, "dot")
    ticks = [(_place(point.tokens), str(point.tokens)) for point in points]
    if before is not None:
        spread = {"array": [before.high - before.value], "arrayminus": [before.value - before.low]}
        marker = {"symbol": "diamond", "size": 11, "color": INK}
        figure.add_scatter(
            x=[0], y=[before.value], error_y=spread, name="prompt's last token", mode="markers", marker=marker
        )
        ticks = [(0.0, "0"), *ticks]
    if answers.parting is not None:
        figure.add_vline(
            x=_place(answers.parting.median),
            line={"color": MUTED, "dash": "dash", "width": 2},
            annotation_text=f"answers of a pair part after {answers.parting.median} (median)",
            annotation_position="bottom right",
        )
    figure.add_hline(y=0.5, line={"color": MUTED, "width": 1})
    figure.update_xaxes(
        title="answer tokens seen", tickvals=[place for place, _ in ticks], ticktext=[n for _, n in ticks]
    )
    figure.update_yaxes(title="test AUROC")
    return style_figure(figure)


def _place(tokens: int) -> float:
    """Where a number of tokens stands: doublings are equally far apart, and 0 is one doubling before 1."""
    return 1 + math.log2(tokens) if tokens else 0.0


def _line(
    figure: go.Figure, points: tuple[AnswerPoint, ...], y: list[float | None], name: str, colour: str, dash: str
) -> None:
    x = [_place(point.tokens) for point in points]
    figure.add_scatter(x=x, y=y, name=name, mode="lines+markers", line={"color": colour, "dash": dash, "width": 3})
