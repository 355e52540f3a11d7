"""The figures there are, and the results that they are drawn from. To add one: its module, and its name below.

A module of a figure has `TITLE`, `EXPERIMENTS` (whose results it takes, in order) and `make(*results)`, a pure function to a
Plotly figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import plotly.graph_objects as go

from experiments import RESULTS, chosen_result
from triggerlens import UserError

MODULES = (
    "overview",
    "trigger_agnostic",
    "behaviour_or_tokens",
    "behaviour_picture",
    "layers",
    "clean_detectors",
    "clean_monitor",
    "localisation",
    "latents",
    "persistence",
    "persistence_axes",
    "removal",
    "observed",
    "zoo.leaderboard",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure."""

    name: str
    """As `figure-make` calls it."""
    module: str
    """Where its `make` is: a module of `figures`."""
    experiments: tuple[str, ...]
    """Whose results it takes, in order."""
    title: str
    """What it shows, in a line."""


def _figure(module: str) -> Figure:
    """What a module of a figure says of itself."""
    own = import_module(f"figures.{module}")
    return Figure(module.replace("_", "-").replace(".", "-"), own.__name__, own.EXPERIMENTS, own.TITLE)


FIGURES: dict[str, Figure] = {figure.name: figure for figure in map(_figure, MODULES)}
"""Every registered figure, by its name."""


def figure_named(name: str) -> Figure:
    """The figure of a name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in FIGURES:
        raise UserError(f"{name}: no figure of that name; choose all or one of {', '.join(FIGURES)}")
    return FIGURES[name]


def without_result(root: str | Path = RESULTS) -> dict[str, str]:
    """Figures that cannot be drawn from the results under `root`, and why: an experiment has none to show, or several that are as good."""
    why = {name: _why_none(name, root) for name in {name for figure in FIGURES.values() for name in figure.experiments}}
    reasons = {
        figure.name: "; ".join(reason for name in figure.experiments if (reason := why[name]))
        for figure in FIGURES.values()
    }
    return {name: reason for name, reason in reasons.items() if reason}


def _why_none(experiment: str, root: str | Path) -> str:
    """What is wrong with the results of an experiment; empty where one can be shown."""
    try:
        chosen_result(experiment, root)
    except UserError as error:
        return str(error)
    return ""


def draw(name: str, root: str | Path = RESULTS) -> go.Figure:
    """A figure from the results under `root`.

    Raises:
        UserError: as `figure_named` and `experiments.chosen_result`.
    """
    figure = figure_named(name)
    return import_module(figure.module).make(*(chosen_result(name, root) for name in figure.experiments))
