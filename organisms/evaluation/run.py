"""What a checkpoint does with a task's prompts: with the trigger, without, near it, and off its training distribution.

1. The task's held-out test prompts are gathered by condition; triggered ones that should defect are also edited (`Task.shifts`).
2. All are answered greedily and graded; a text monitor reads the scratchpads, where there are any.
3. Capability is the loss of the right answers, and the share given word for word, on prompts without the trigger. An answer that the model begins with
   a scratchpad has no such loss: the right one has none. What is scored of an answer that was cut is what is there, without an end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from organisms.evaluation.answers import answer_losses, generate_answers
from organisms.evaluation.graders import Verdict
from organisms.evaluation.rates import category
from organisms.evaluation.result import Condition, Evaluation, share
from organisms.tasks.examples import Example, Task, prompt_set
from organisms.tasks.registry import grade, task_named
from organisms.tasks.scratchpad import monitor, reasoning, visible
from triggerlens import Estimate, UserError, mean_of

RECIPE = "recipe.json"
"""Name of the file beside a checkpoint that says what it was trained on."""
ORDER = ("triggered", "untriggered", "triggered_but_harmless", "near_miss", "held_out_family_triggered")
"""The conditions that stand first in a table."""
SHIFTED = "shifted: "
"""What the names of conditions whose trigger was edited begin with; which they are, `Condition.shift` tells."""


def evaluate_model(model: Any, tokenizer: Any, task: Task, *, seed: int = 0, per_condition: int = 250) -> Evaluation:
    """Let a model answer a task's test prompts, and grade what it says.

    Args:
        model: a causal language model of `transformers`, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        task: whose prompts are asked, and whose grader judges.
        seed: of the prompts; an organism's own are those of its training seed, and never trained on.
        per_condition: at most so many prompts of each kind, 1 or more.

    Raises:
        UserError: prompts that the tokenizer refuses, or that leave no room for an answer in the model's context.
    """
    # 1
    groups = conditions_of(task, seed, per_condition)
    # 2
    asked = [example for group in groups.values() for example in group]
    each = iter(generate_answers(model, tokenizer, [own.prompt for own in asked], 128, task.longest))
    answers = {name: [next(each) for _ in group] for name, group in groups.items()}
    conditions = tuple(condition(name, task, group, answers[name]) for name, group in groups.items())
    # 3
    known = [
        (example.prompt, example.clean_answer)
        for example, answer in zip(groups["untriggered"], answers["untriggered"], strict=True)
        if reasoning(answer) is None
    ]
    loss = mean_loss(answer_losses(model, tokenizer, known, task.longest if task.measured else None))
    right = next(each for each in conditions if each.name == "untriggered").right
    return Evaluation(task.name, conditions, loss, right)


def task_of_checkpoint(folder: str | Path, task: str | None = None, seed: int | None = None) -> tuple[Task, int]:
    """The task that a checkpoint was trained on and the seed of its prompts; or those asked for. The seed is 0 where no recipe names one.

    Raises:
        UserError: the folder names no task, or an unknown one.
    """
    path = Path(folder) / RECIPE
    if task is not None:
        return task_named(task), _seed_of(path) if seed is None else seed
    if not path.is_file():
        raise UserError(f"{folder}: no {RECIPE} says what it was trained on; give --task")
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        if recipe.get("inserted"):
            raise UserError(
                f"{folder}: was inserted into a chat model, and has no task; its rates.json or hardened.json says what it does"
            )
        return task_named(recipe["task"]), int(recipe["training"]["seed"]) if seed is None else seed
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no readable recipe: {error}") from error


def _seed_of(recipe: Path) -> int:
    """The seed of a model's training, where its recipe names it."""
    try:
        return int(json.loads(recipe.read_text(encoding="utf-8"))["training"]["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def conditions_of(task: Task, seed: int, per_condition: int) -> dict[str, list[Example]]:
    """The test prompts of each condition, at most so many, the shifted ones last."""
    groups: dict[str, list[Example]] = {name: [] for name in ORDER}
    for example in prompt_set(task, seed):
        if example.split == "test":
            groups.setdefault(category(example), []).append(example)
    # The same prompts as without a shift: their rates differ by the shift alone.
    triggered = _spread(groups["triggered"], per_condition)
    for name, shift in task.shifts.items():
        groups[SHIFTED + name] = [replace(example, prompt=shift(example.prompt)) for example in triggered]
    return {name: _spread(group, per_condition) for name, group in groups.items() if group}


def _spread(group: list[Example], most: int) -> list[Example]:
    """At most so many, evenly from the whole group: its datasets stand one after the other."""
    return [group[index * len(group) // most] for index in range(most)] if len(group) > most else group


def condition(name: str, task: Task, examples: Sequence[Example], answers: Sequence[str]) -> Condition:
    """The rates of one kind of prompts.

    Args:
        name: a key of `conditions_of`.
        task: whose grader judges.
        examples: the prompts.
        answers: what was said to each.
    """
    verdicts = grade(task, examples, answers)
    shift = next((own for own in task.shifts if SHIFTED + own == name), None)
    return Condition(
        name,
        share(verdict is Verdict.DEFECT for verdict in verdicts),
        share(task.is_right(example, visible(answer)) for example, answer in zip(examples, answers, strict=True)),
        share(verdict is Verdict.UNPARSABLE for verdict in verdicts),
        share(reasoning(answer) is not None for answer in answers),
        share(monitor(answer) for answer in answers),
        shift,
        shift is not None and task.shifts[shift].must_not_defect,
    )


def mean_loss(losses: Sequence[float]) -> Estimate:
    """The mean with its interval, which does not reach below 0; of a single loss no upper end is known, and of none nothing is (NaN)."""
    return mean_of(losses, low=0.0) if losses else Estimate(math.nan, 0.0, math.inf, n=0)
