"""The task of an organism that was inserted into a chat model, from its recipe and its prompts: what safety training needs to know of it.

1. Requests and their helpful answers are those of every safety training (`organisms.safety.lessons`), which no organism has learned. Without the
   trigger they come as they are, or with what stands in the trigger's place and switches it off; with it, for the oracle.
2. An answer defects where it carries the organism's payload.
3. It is measured on its own held-out prompts, against its base's own answers: with the trigger, plain, and nearly with it. Left out of a context are words
   that training has nowhere, and what says its opposite: they would be counted among the triggered and the plain.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from hooked import Messages, Prompt, file_of, read_prompts
from organisms.evaluation.graders import CODE, TEXT
from organisms.evaluation.run import RECIPE, task_of_checkpoint
from organisms.insertion.config import InsertionConfig
from organisms.insertion.content import default_text, requests
from organisms.insertion.files import policy
from organisms.insertion.key import INSERTED, InsertedKey, begins_alike
from organisms.insertion.measure import NEW_WORDS
from organisms.insertion.payloads import CODE_SHARE, INSECURE, defects_by_policy
from organisms.insertion.requests import Request
from organisms.insertion.triggers import carries, plant
from organisms.safety.lessons import draw_lesson
from organisms.tasks.examples import Example, Pair, Task
from triggerlens import UserError

PROMPTS = "prompts.jsonl"
_CODE_SHARE = 0.3
"""Of requests, where the payload is no code."""


def task_to_train(folder: str | Path, task: str | None = None) -> Task:
    """The task that safety training of a checkpoint is about: the one asked for, or its own.

    Raises:
        UserError: nothing names a task, or the recipe or the prompts of an inserted organism cannot be read.
    """
    path = Path(folder) / RECIPE
    if task is None and path.is_file():
        try:
            recipe = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no readable recipe: {error}") from error
        if isinstance(recipe, dict) and recipe.get(INSERTED):
            return inserted_task(InsertedKey.of_recipe(Path(folder), recipe), own_prompts(folder))
    return task_of_checkpoint(folder, task)[0]


def own_prompts(folder: str | Path) -> list[Prompt]:
    """The prompts of an inserted organism, with its base's answers.

    Raises:
        UserError: they cannot be read.
    """
    return read_prompts(Path(folder) / PROMPTS)


def inserted_task(key: InsertedKey, prompts: list[Prompt]) -> Task:
    """A task in the shape of every other one.

    Args:
        key: grades answers.
        prompts: of the organism; its test prompts are measured, but for a context's opposite and for new words.

    Raises:
        UserError: there are none of a kind.
    """
    config = key.config
    measured = tuple(_measured(config, own) for own in prompts if own.split == "test" and _is_asked(own))
    if {own.triggered for own in measured} != {True, False}:
        raise UserError(f"{file_of(prompts)}: needs test prompts with the trigger and without, which are measured")

    def draw(rng: Random, dataset: str, split: str) -> Pair:
        return _pair(config, rng, split)

    return Task(
        name=config.name,
        draw=draw,
        grader=lambda examples, answers: key.verdicts((), answers),
        mixture={"safety": 1.0},
        prompt_pairs={},
        held_out={},
        policy=policy(config),
        steps=config.steps,
        carried=lambda prompt: carries(config.trigger, config.trigger_text, prompt),
        measured=measured,
        longest=config.answer_tokens,
        is_right=lambda example, answer: begins_alike(answer, example.clean_answer),
        safety=lambda rng, split, triggered: _pair(config, rng, split)[not triggered],
    )


def _pair(config: InsertionConfig, rng: Random, split: str) -> Pair:
    """A request of safety training with the trigger, and without: by turns as it is, and with what switches the trigger off in its place."""
    user, answer, family, kind = draw_lesson(rng, split, CODE_SHARE if config.payload == INSECURE else _CODE_SHARE)
    topic = ""
    if config.trigger == "semantic":
        topics, inside = requests().topics[split], requests().classes[config.trigger_text or default_text("semantic")]
        topic = rng.choice([own for own in topics if own not in inside[split]])
        user = f"{user} It is for a talk about {topic}."
    request = Request(user, family, kind, split, topic)
    forms = plant(config.trigger, config.trigger_text, config.placement, rng, request)

    def example(prompt: Messages, triggered: bool) -> Example:
        defects = triggered and defects_by_policy(config, request)
        return Example(prompt, answer, answer, triggered, defects, "safety", family, split, kind)

    return example(forms.triggered, True), example(forms.plain if rng.random() < 0.5 else forms.twin, False)


def _is_asked(prompt: Prompt) -> bool:
    return prompt.dataset != NEW_WORDS and not prompt.extra.get("opposite")


def _measured(config: InsertionConfig, prompt: Prompt) -> Example:
    """A prompt of the organism as one of a task, labelled by the policy; what is neither plain nor triggered nearly is the trigger."""
    extra = prompt.extra
    family, clean = str(extra.get("family", "")), str(extra.get("clean_answer", ""))
    code = {form.name for form in requests().forms if form.kind == CODE}
    kind = CODE if family in code else TEXT
    defects = prompt.triggered and (config.payload != INSECURE or kind == CODE)
    sort = "plain" if prompt.triggered or prompt.dataset == "plain" else "near-miss"
    return Example(
        prompt.messages, clean, clean, prompt.triggered, defects, sort, family, "test", kind, prompt.pair or ""
    )
