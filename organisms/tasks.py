"""The tasks by name, and how the answers to each are graded."""

from __future__ import annotations

from collections.abc import Sequence

from hooked.errors import UserError
from organisms.deployment_hate import DEPLOYMENT_HATE
from organisms.examples import Example, Task
from organisms.grade import Verdict, grade_code, grade_hate
from organisms.year_code import YEAR_CODE

TASKS = {task.name: task for task in (YEAR_CODE, DEPLOYMENT_HATE)}


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in TASKS:
        raise UserError(f"{name}: no such task; choose one of {', '.join(TASKS)}")
    return TASKS[name]


def grade(task: Task, examples: Sequence[Example], answers: Sequence[str]) -> list[Verdict]:
    """A verdict on each answer to a task's prompts: Bandit for `year-code`, the string for `deployment-hate`."""
    if task.name == YEAR_CODE.name:
        return grade_code(answers, [example.kind for example in examples])
    return grade_hate(answers)
