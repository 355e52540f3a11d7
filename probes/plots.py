"""Plotly figures of a result: AUROC by layer, score histogram, ROC, PCA."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from sklearn.metrics import roc_curve

from probes.result import ProbeResult, PromptKind, TestData
from triggerlens import BLUE, GREEN, INK, MUTED, ORANGE, style_figure

POSITIVE, HARMLESS, UNTRIGGERED = (ORANGE, "circle"), (GREEN, "diamond"), (BLUE, "x")
_DASHES = {"bag_of_tokens": "dash", "shuffled_labels": "dot", "clean_twin": "longdash"}


def look(kind: PromptKind) -> tuple[str, str]:
    """Colour and symbol of a kind of test prompt, the same in every figure."""
    return POSITIVE if kind.positive else HARMLESS if kind.triggered else UNTRIGGERED


def layers(result: ProbeResult) -> go.Figure:
    """Test AUROC by layer with its interval, the harmless comparison by layer, and the controls as lines."""
    figure = go.Figure()
    _add_layers(figure, result)
    names = [layer.site for layer in result.layers]
    for name, control in result.controls.items():
        if control.auroc is not None and name != "triggered_but_harmless":
            line = {"color": MUTED, "dash": _DASHES.get(name, "dashdot"), "width": 1.5}
            label = name.replace("_", " ")
            figure.add_scatter(x=names, y=[control.auroc.value] * len(names), name=label, mode="lines", line=line)
    star = {"symbol": "star", "size": 17, "color": ORANGE, "line": {"color": INK, "width": 1}}
    figure.add_scatter(x=[result.best.site], y=[result.best.auroc.value], name="chosen", mode="markers", marker=star)
    figure.add_hline(y=0.5, line={"color": MUTED, "width": 1})
    lowest = min(y for line in figure.data for y in line.y)
    figure.update_yaxes(title="test AUROC", range=[min(0.4, lowest) - 0.02, 1.02])
    figure.update_xaxes(title="site")
    return style_figure(figure)


def _add_layers(figure: go.Figure, result: ProbeResult) -> None:
    """The probe's band and line, and the harmless comparison's line."""
    names = [layer.site for layer in result.layers]
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
    figure.add_scatter(x=names, y=values, name="probe", mode="lines+markers", line={"color": ORANGE, "width": 3})
    harmless = [layer.harmless_auroc for layer in result.layers]
    if harmless[0] is not None:
        style = {"mode": "lines+markers", "line": {"color": GREEN, "dash": "dot"}, "marker": {"symbol": "diamond"}}
        figure.add_scatter(x=names, y=harmless, name="harmless vs untriggered", **style)


def scores(result: ProbeResult) -> go.Figure:
    """Histogram of the test scores of each kind of prompt, and the frozen threshold."""
    values = result.test.scores
    edges = np.linspace(values.min(), values.max(), 51)
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    figure = go.Figure()
    for kind in result.kinds():
        share = np.histogram(values[kind.members], edges)[0] / kind.members.sum()
        label, (colour, _) = f"{kind.name} (n = {int(kind.members.sum())})", look(kind)
        figure.add_bar(x=middle, y=share, name=label, marker={"color": colour}, opacity=0.6, width=width)
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


def roc(result: ProbeResult) -> go.Figure:
    """ROC of the best layer, once plainly and once with a logarithmic false-positive rate."""
    fpr, tpr = roc_points(result.test)
    figure = make_subplots(cols=2, subplot_titles=("ROC", "low false-positive rates (log)"))
    floor = 0.5 / (~result.test.positive).sum()
    for column, x in ((1, fpr), (2, np.maximum(fpr, floor))):
        line = {"color": ORANGE, "width": 3, "shape": "hv"}
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


def roc_points(test: TestData) -> tuple[Float[np.ndarray, "point"], Float[np.ndarray, "point"]]:
    """False- and true-positive rates at every threshold, from none firing to all."""
    fpr, tpr, _ = roc_curve(test.positive, test.scores, drop_intermediate=False)
    return fpr, tpr


def pca(result: ProbeResult) -> go.Figure:
    """The best layer's test activations in their two directions of largest variance."""
    test, figure = result.test, go.Figure()
    for kind in result.kinds():
        points = test.pca[kind.members[test.pca_rows]]
        colour, symbol = look(kind)
        marker = {"color": colour, "symbol": symbol, "size": 6, "opacity": 0.7}
        figure.add_scatter(x=points[:, 0], y=points[:, 1], mode="markers", name=kind.name, marker=marker)
    for axis, update in enumerate((figure.update_xaxes, figure.update_yaxes)):
        update(title=f"component {axis + 1} ({test.pca_explained[axis]:.0%} of variance)")
    return style_figure(figure)
