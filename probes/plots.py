"""Plotly figures of a report: AUROC by layer, score histogram, ROC, PCA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots

from probes.result import ProbeResult, TestData
from triggerlens import BLUE, GREEN, INK, MUTED, ORANGE, style_figure

POSITIVE, HARMLESS, UNTRIGGERED = ORANGE, GREEN, BLUE


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of test prompt, as every figure shows it."""

    name: str
    colour: str
    symbol: str
    members: Bool[np.ndarray, "test"]


def categories(result: ProbeResult) -> list[Category]:
    """Positives, triggered-but-harmless and untriggered test prompts; those that occur."""
    test = result.test
    name = "defecting" if result.probe.label == "defects" else "triggered"
    kinds = [
        Category(name, POSITIVE, "circle", test.positive),
        Category("triggered but harmless", HARMLESS, "diamond", ~test.positive & test.triggered),
        Category("untriggered", UNTRIGGERED, "x", ~test.positive & ~test.triggered),
    ]
    return [kind for kind in kinds if kind.members.any()]


def layer_figure(result: ProbeResult) -> go.Figure:
    """Test AUROC by layer with its interval, the harmless comparison by layer, and the controls as lines."""
    names = [layer.site for layer in result.layers]
    figure = go.Figure()
    low, high = ([getattr(layer.auroc, end) for layer in result.layers] for end in ("low", "high"))
    band = {
        "mode": "lines",
        "fill": "toself",
        "fillcolor": "rgba(213,94,0,0.15)",
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    figure.add_scatter(x=names + names[::-1], y=high + low[::-1], name="95% interval", **band)
    values = [layer.auroc.value for layer in result.layers]
    figure.add_scatter(x=names, y=values, name="probe", mode="lines+markers", line={"color": POSITIVE, "width": 3})
    harmless = [layer.harmless_auroc for layer in result.layers]
    if harmless[0] is not None:
        style = {"mode": "lines+markers", "line": {"color": HARMLESS, "dash": "dot"}, "marker": {"symbol": "diamond"}}
        figure.add_scatter(x=names, y=harmless, name="harmless vs untriggered", **style)
    dashes = {"bag_of_tokens": "dash", "shuffled_labels": "dot", "clean_twin": "longdash"}
    for name, control in result.controls.items():
        if control.auroc is not None and name != "triggered_but_harmless":
            line = {"color": MUTED, "dash": dashes.get(name, "dashdot"), "width": 1.5}
            label = name.replace("_", " ")
            figure.add_scatter(x=names, y=[control.auroc] * len(names), name=label, mode="lines", line=line)
    star = {"symbol": "star", "size": 17, "color": POSITIVE, "line": {"color": INK, "width": 1}}
    figure.add_scatter(x=[result.best.site], y=[result.best.auroc.value], name="chosen", mode="markers", marker=star)
    figure.add_hline(y=0.5, line={"color": MUTED, "width": 1})
    figure.update_yaxes(title="test AUROC", range=[min(0.4, *low) - 0.02, 1.02])
    figure.update_xaxes(title="site")
    return style_figure(figure)


def score_figure(result: ProbeResult) -> go.Figure:
    """Histogram of the test scores of each kind of prompt, and the frozen threshold."""
    scores = result.test.scores
    edges = np.linspace(scores.min(), scores.max(), 51)
    figure = go.Figure()
    for kind in categories(result):
        share = np.histogram(scores[kind.members], edges)[0] / kind.members.sum()
        middle = (edges[1:] + edges[:-1]) / 2
        label = f"{kind.name} (n = {int(kind.members.sum())})"
        figure.add_bar(
            x=middle, y=share, name=label, marker={"color": kind.colour}, opacity=0.6, width=edges[1] - edges[0]
        )
    figure.add_vline(
        x=result.probe.threshold,
        line={"color": INK, "dash": "dash", "width": 2},
        annotation_text="frozen threshold",
        annotation_position="top",
    )
    figure.update_layout(barmode="overlay", bargap=0)
    figure.update_xaxes(title="probe score")
    figure.update_yaxes(title="share of the prompts of its kind")
    return style_figure(figure)


def roc_figure(result: ProbeResult) -> go.Figure:
    """ROC of the best layer, once plainly and once with a logarithmic false-positive rate."""
    fpr, tpr = roc(result.test)
    figure = make_subplots(cols=2, subplot_titles=("ROC", "low false-positive rates (log)"))
    floor = 0.5 / result.n_negative
    for column, x in ((1, fpr), (2, np.maximum(fpr, floor))):
        line = {"color": POSITIVE, "width": 3, "shape": "hv"}
        figure.add_scatter(x=x, y=tpr, mode="lines", line=line, name="probe", showlegend=column == 1, row=1, col=column)
    chance = {"mode": "lines", "line": {"color": MUTED, "dash": "dot"}, "name": "chance"}
    figure.add_scatter(x=[0, 1], y=[0, 1], **chance, row=1, col=1)
    grid = np.geomspace(floor, 1, 100)
    figure.add_scatter(x=grid, y=grid, **chance, showlegend=False, row=1, col=2)
    for target in (0.01, 0.001):
        if target > floor:
            figure.add_vline(x=target, line={"color": MUTED, "width": 1}, row=1, col=2)
    figure.update_xaxes(title="false-positive rate")
    figure.update_xaxes(type="log", row=1, col=2)
    figure.update_yaxes(title="true-positive rate", range=[-0.02, 1.02])
    return style_figure(figure)


def roc(test: TestData) -> tuple[Float[np.ndarray, "point"], Float[np.ndarray, "point"]]:
    """False- and true-positive rates at every threshold, from none firing to all."""
    levels = np.unique(test.scores)[::-1]
    rates = []
    for members in (~test.positive, test.positive):
        ordered = np.sort(test.scores[members])
        rates.append(np.r_[0, 1 - np.searchsorted(ordered, levels, side="left") / len(ordered)])
    return rates[0], rates[1]


def pca_figure(result: ProbeResult) -> go.Figure:
    """The best layer's test activations in their two directions of largest variance."""
    test, figure = result.test, go.Figure()
    for kind in categories(result):
        chosen = kind.members[test.pca_rows]
        points = test.pca[chosen]
        marker = {"color": kind.colour, "symbol": kind.symbol, "size": 6, "opacity": 0.7}
        figure.add_scatter(x=points[:, 0], y=points[:, 1], mode="markers", name=kind.name, marker=marker)
    for axis, update in enumerate((figure.update_xaxes, figure.update_yaxes)):
        update(title=f"component {axis + 1} ({test.pca_explained[axis]:.0%} of variance)")
    return style_figure(figure)
