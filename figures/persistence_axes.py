"""Claim 10 along two axes: what safety training leaves of the backdoor, by variant of insertion and by size of model."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments import Result
from figures.persistence import drawn, trainings

TITLE = "What safety training leaves of the backdoor, by how it was inserted and by the size of the model"
EXPERIMENTS = ("persistence-axes",)


def make(result: Result) -> go.Figure:
    """A row for each organism: millions of parameters, variant, and the learning rate where there are several."""
    several = len({arm.learning_rate for arm in trainings(result)}) > 1
    sizes: dict[tuple[str, str], int] = {}
    for arm in trainings(result):  # a task's tokenizer moves the count a little: a size is named by its first
        sizes.setdefault((arm.organism.size, arm.organism.variant), arm.organism.parameters)
    return drawn(
        result,
        lambda arm: (
            f"{sizes[arm.organism.size, arm.organism.variant] / 1e6:.1f}M, {arm.organism.variant}"
            + f", {arm.learning_rate:g}" * several
        ),
        left=132,
    )
