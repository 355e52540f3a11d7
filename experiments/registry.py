"""The experiments there are: names and claims, known without importing any of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from triggerlens import UserError


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment."""

    name: str
    module: str
    """Has `VERSION` (raised whenever a change alters numbers), `Config`, `QUICK` (fields that make it fast), `run`."""
    claims: tuple[int, ...]
    """Numbers of the claims that it measures."""
    title: str

    def load(self) -> Any:
        """Its module."""
        return import_module(self.module)


EXPERIMENTS: dict[str, Experiment] = {
    one.name: one
    for one in (
        Experiment(
            "trigger-agnostic-probe",
            "experiments.claims.trigger_agnostic",
            (1,),
            "a probe from contrast pairs alone, without any trigger, catches defection",
        ),
        Experiment(
            "behaviour-or-tokens",
            "experiments.claims.behaviour_or_tokens",
            (2,),
            "what a detector reads is the behaviour, not the trigger's tokens",
        ),
        Experiment(
            "clean-data-detectors",
            "experiments.claims.clean_detectors",
            (3, 4),
            "anomaly detectors that have seen clean prompts alone, and what they cost as a monitor",
        ),
        Experiment(
            "localisation",
            "experiments.claims.localisation",
            (7,),
            "patching finds the trigger where it is known to be, and a few heads carry the attack",
        ),
        Experiment(
            "removal",
            "experiments.claims.removal",
            (8,),
            "the trigger cut out by every method beside its placebo: what is left of the attack, and what else moved",
        ),
        Experiment(
            "trigger-latents",
            "experiments.claims.trigger_latents",
            (9,),
            "one latent of a sparse autoencoder against one direction: who tells of the trigger, and whose ablation cuts it out",
        ),
        Experiment(
            "insertion",
            "experiments.claims.insertion",
            (),
            "every way to insert a backdoor, at the smallest size: does it take, and only with the trigger",
        ),
        Experiment(
            "persistence",
            "experiments.claims.persistence",
            (10,),
            "safety training and its oracle control: does the backdoor survive, and does the probe still fire",
        ),
        Experiment(
            "persistence-axes",
            "experiments.claims.persistence_axes",
            (10,),
            "the same safety training on every variant of insertion and on three sizes of model",
        ),
    )
}


def experiment_named(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in EXPERIMENTS:
        raise UserError(f"{name}: no experiment of that name; choose one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
