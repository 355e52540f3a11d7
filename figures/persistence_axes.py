"""Claim 10 along two axes: what safety training leaves of the backdoor, by variant of insertion and by size of model."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments import Result
from figures.persistence import drawn, trainings


def make(result: Result) -> go.Figure:
    """A row for each organism: millions of parameters, variant, and the learning rate where there are several."""
    names = trainings(result)
    rates = {name.rsplit(" ", 1)[1] for name in names}
    rows = [_row(result, name) + f", {name.rsplit(' ', 1)[1]}" * (len(rates) > 1) for name in names]
    return drawn(result, rows, left=132)


def _row(result: Result, training: str) -> str:
    size, variant = training.split(",")[0].split()
    parameters = next(
        cell["parameters"] for name, cell in result.cells.items() if name.split("/")[1:3] == [size, variant]
    )
    return f"{parameters / 1e6:.1f}M, {variant}"
