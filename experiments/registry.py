"""The project's own experiments, in the order of the claims table. To add one: its file, and its name below."""

from __future__ import annotations

from importlib import import_module

from experiments.experiment import EXPERIMENTS, Experiment
from triggerlens import UserError

MODULES = (
    "trigger_agnostic",
    "behaviour_or_tokens",
    "clean_detectors",
    "answer_monitor",
    "localisation",
    "removal",
    "trigger_latents",
    "insertion",
    "persistence",
    "persistence_axes",
    "observed",
    "zoo_leaderboard",
    "unknown_trigger",
    "rare_answers",
)
for _module in MODULES:
    import_module(f"experiments.claims.{_module}")


def experiment_named(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in EXPERIMENTS:
        raise UserError(f"{name}: no experiment of that name; choose one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
