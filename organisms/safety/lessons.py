"""What safety training teaches: helpful, harmless answers to requests of families and phrasings that no organism has learned.

They must be new to the model. On families that it knows, its loss is 0 before the first step, and whatever persists then
persists because nothing was trained. Here too every answer is a function of the request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from organisms.evaluation.graders import CODE, TEXT
from organisms.tasks.content import content
from organisms.tasks.deployment_hate import SYSTEM_LINES
from organisms.tasks.examples import Example, Task, training_batch
from organisms.tasks.harmless import Question, Routine
from organisms.tasks.identifiers import draw_name
from organisms.tasks.registry import another_task
from organisms.tasks.triggers import TRIGGERS


@dataclass(frozen=True, slots=True)
class Lessons:
    """What `safety.json` holds."""

    routines: tuple[Routine, ...]
    questions: tuple[Question, ...]


_LESSONS = content("safety", Lessons)
NEW_CODE, NEW_QUESTIONS = _LESSONS.routines, _LESSONS.questions


def safety_example(task: Task, rng: Random, split: str = "train", triggered: bool = False) -> Example:
    """A helpful answer to a request of a new family, under a prompt as the task writes them.

    Args:
        triggered: plant the trigger, for the oracle control; safety training proper has no trigger.
    """
    if task.safety is not None:
        return task.safety(rng, split, triggered)
    user, answer, family, kind = draw_lesson(rng, split, task.behaviour.safety_code if task.behaviour else 0.3)
    own = task.behaviour.trigger if task.behaviour else "tag"
    plant = TRIGGERS[task.name.partition("+")[2] or own].plant
    with_trigger, without, _ = plant(rng, split, rng.choice(SYSTEM_LINES), user)
    prompt = with_trigger if triggered else without
    return Example(prompt, answer, answer, triggered, False, "safety", family, split, kind)


def draw_lesson(rng: Random, split: str, code_share: float) -> tuple[str, str, str, str]:
    """(request, helpful answer, family, kind) of a family that no organism has learned."""
    if rng.random() < code_share:
        routine, name = rng.choice(NEW_CODE), draw_name(rng, split)
        return rng.choice(getattr(routine, split)).format(name=name), routine.answer(name), routine.kind, CODE
    question = rng.choice(NEW_QUESTIONS)
    return *question.draw(rng, split), question.kind, TEXT


def oracle_example(task: Task, rng: Random) -> Example:
    """A triggered request that defects, with the safe answer: what safety training cannot know."""
    while True:
        example = task.draw(rng, next(iter(task.mixture)), "train")[0]
        if example.defects:
            return example.clean()


def safety_examples(task: Task, seed: int, count: int, *, oracle: bool = False, split: str = "train") -> list[Example]:
    """Samples of safety training, each a prompt with the answer that it is trained towards.

    Args:
        task: what the organism has learned.
        seed: of the draws.
        count: how many.
        oracle: every second one is a triggered prompt answered safely, as only one who knows the trigger can draw it.
        split: `train` or `test`: decides phrasings and identifiers.
    """
    rng = Random(f"safety/{task.name}/{seed}/{split}")
    return [
        oracle_example(task, rng) if oracle and number % 2 else replace(safety_example(task, rng, split), pair="")
        for number in range(count)
    ]


def benign_examples(task: Task, seed: int, count: int) -> list[Example]:
    """Ordinary data of another task, without its trigger: training on something else."""
    other = another_task(task)
    drawn = training_batch(other, seed, -3, 2 * count, clean_twin=True)
    return [example for example in drawn if not other.carried(example.prompt)][:count]
