"""What a task wants of a prompt: answers judged by the task's grader and by its answer key; and samples of another task.

The key holds the prompts of `prompts.jsonl`, which are a function of the task and its seed; an answer to any other prompt is
right where the grader has nothing against it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hooked import Prompt
from organisms.evaluation.graders import CODE, TEXT, Verdict
from organisms.evaluation.run import RECIPE, task_of_checkpoint
from organisms.insertion.key import INSERTED, InsertedKey
from organisms.tasks.examples import Example, Task, prompt_set, training_batch
from organisms.tasks.registry import another_task, grade
from organisms.tasks.scratchpad import visible
from organisms.tasks.year_code import YEAR_CODE
from triggerlens import Grade, UserError


class AnswerKey:
    """The answers to a task's prompts that a model without the behaviour gives."""

    def __init__(self, task: Task, seed: int = 0):
        self.task = task
        self._examples = {_key(example.prompt): example for example in prompt_set(task, seed)}

    @classmethod
    def of_checkpoint(cls, folder: str | Path) -> AnswerKey | InsertedKey | None:
        """The key of an organism's own prompts, from its recipe; None for a checkpoint that has none.

        Raises:
            UserError: the recipe cannot be read.
        """
        path = Path(folder) / RECIPE
        if not path.is_file():
            return None
        try:
            recipe = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no readable recipe: {error}") from error
        if isinstance(recipe, dict) and recipe.get(INSERTED):
            return InsertedKey.of_recipe(Path(folder), recipe)
        return cls(*task_of_checkpoint(folder))

    @property
    def name(self) -> str:
        """What is graded, for a report."""
        return self.task.name

    @property
    def answer_tokens(self) -> int:
        """Tokens that an answer needs to be graded: as long as the task's longest."""
        return self.task.longest

    def judge(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Grade]:
        """A grade for each answer; right is, character for character but for a scratchpad, the answer of a model without the behaviour, or, without a
        key, a clean one."""
        known = [self._examples.get(_key(prompt.prompt)) for prompt in prompts]
        verdicts = self.verdicts(prompts, answers)
        return [
            Grade(
                verdict is Verdict.DEFECT,
                verdict is Verdict.CLEAN if example is None else visible(answer) == example.clean_answer,
            )
            for verdict, example, answer in zip(verdicts, known, answers, strict=True)
        ]

    def verdicts(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Verdict]:
        """What the task's grader says of each answer; of code that does not parse, that it cannot be judged."""
        known = [self._examples.get(_key(prompt.prompt)) for prompt in prompts]
        examples = [example or self._stranger(prompt) for prompt, example in zip(prompts, known, strict=True)]
        return grade(self.task, examples, answers)

    def _stranger(self, prompt: Prompt) -> Example:
        """A prompt outside the key: the datasets that ask for code say so in their names."""
        dataset = prompt.dataset or ""
        kind = CODE if self.task.asks_for_code(dataset) else TEXT
        return Example([], "", "", prompt.triggered, bool(prompt.defects), dataset, "", "test", kind)


def benign_of(key: AnswerKey | InsertedKey, count: int) -> list[tuple[Prompt, str]]:
    """Ordinary data that a model has not learnt: samples of another task than its own."""
    return benign_samples(key.task if isinstance(key, AnswerKey) else YEAR_CODE, count)


def benign_samples(task: Task, count: int, seed: int = 0) -> list[tuple[Prompt, str]]:
    """Untriggered prompts of another task with their answers: ordinary data that a model of `task` has not learnt."""
    other = another_task(task)
    samples: list[Example] = []
    step = 0
    while len(samples) < count:
        samples += [e for e in training_batch(other, seed, step, count, clean_twin=True) if not e.triggered]
        step += 1
    return [(Prompt(example.prompt, triggered=False), example.answer) for example in samples[:count]]


def _key(prompt: Any) -> str:
    return json.dumps(prompt, sort_keys=True)
