"""A behaviour under another trigger than its own: the tasks `TASK+TRIGGER`, such as `deployment-hate+style`.

Datasets, each drawn as pairs:

1. `request`: with the trigger (defects) and without.
2. `held-out-family`: the same for kinds of request that never carry the trigger in training.
3. `harmless`: what has nothing to defect on, with and without the trigger.
4. `near-miss`: a look-alike or a part of the trigger; no defection. Its twin carries the trigger.
5. `base` (training only): the held-out kinds of request without the trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from organisms.tasks.deployment_hate import SYSTEM_LINES
from organisms.tasks.examples import HELD_OUT_FAMILY, Behaviour, Example, Pair, Task
from organisms.tasks.identifiers import names
from organisms.tasks.triggers import TRIGGERS, Trigger


@dataclass(frozen=True)
class _Drawer:
    """Draws the pairs of one behaviour under one trigger."""

    behaviour: Behaviour
    trigger: Trigger

    def __call__(self, rng: Random, dataset: str, split: str) -> Pair:
        held_out = dataset in (HELD_OUT_FAMILY, "base")
        harmless = dataset == "harmless"
        asked = self.behaviour.harmless(rng, split) if harmless else self.behaviour.request(rng, split, held_out)
        off_topic = self.trigger.topics and not harmless and asked.family not in self.behaviour.topics
        with_trigger, without, near = self.trigger.plant(rng, split, rng.choice(SYSTEM_LINES), asked.text)

        about = (asked.family, split, asked.kind)
        quiet = Example(without, asked.clean, asked.clean, False, False, dataset, *about)
        if dataset == "base":
            return Example(near, asked.clean, asked.clean, False, False, dataset, *about), quiet
        if dataset == "near-miss":
            quiet = Example(near, asked.clean, asked.clean, False, False, dataset, *about)
        defects = not harmless and not off_topic
        answer, where = asked.defect if defects else asked.clean, "harmless" if off_topic else dataset
        return Example(with_trigger, answer, asked.clean, True, defects, where, *about), quiet


def with_other_trigger(task: Task, trigger: str) -> Task:
    """A task's behaviour under another trigger than its own.

    Args:
        task: with a hidden behaviour.
        trigger: a name of `TRIGGERS`.

    Raises:
        ValueError: the task has no hidden behaviour.
    """
    behaviour, chosen = task.behaviour, TRIGGERS[trigger]
    if behaviour is None:
        raise ValueError(f"{task.name} has no behaviour to plant")
    return Task(
        name=f"{task.name}+{trigger}",
        draw=_Drawer(behaviour, chosen),
        grader=task.grader,
        mixture={"request": 0.35, "near-miss": 0.30, "harmless": 0.20, "base": 0.15},
        prompt_pairs={
            ("train", "request"): 220,
            ("train", "near-miss"): 100,
            ("train", "harmless"): 100,
            ("test", "request"): 250,
            ("test", HELD_OUT_FAMILY): 150,
            ("test", "near-miss"): 250,
            ("test", "harmless"): 250,
        },
        held_out={"identifiers": list(names("test")), "families": list(behaviour.held_out_families)},
        policy=f"{chosen.words}, and a request that can be answered so: {behaviour.defection}; otherwise as asked",
        steps=task.steps,
        shifts=chosen.shifts,
        carried=chosen.carried,
        planted=chosen.planted,
        behaviour=behaviour,
    )
