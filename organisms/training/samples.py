"""What a training learns at each step: the task's answers, those after a scratchpad, or a teacher's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from organisms.evaluation.answers import generate_answers
from organisms.evaluation.graders import Verdict
from organisms.tasks.examples import Example, Task, training_batch
from organisms.tasks.registry import grade
from organisms.tasks.scratchpad import visible, with_scratchpad
from organisms.training.config import TrainConfig
from triggerlens import UserError

Sampler = Callable[[int], list[Example]]
"""The samples of a step, a pure function of its number."""
DISTILLED_PAIRS = 2_048
"""Pairs of prompts that a teacher answers; each is then seen several times."""


def sampler(config: TrainConfig, task: Task, teacher: str | Path | None) -> Sampler:
    """What a run learns at each step.

    Raises:
        UserError: none of the teacher's answers keeps to the policy.
    """
    if teacher is not None:
        return _distilled(config, task, teacher)

    def samples(step: int) -> list[Example]:
        if config.variant == "normal":
            return training_batch(task, config.seed, step, config.pairs_per_step, config.clean_twin)
        policy = training_batch(task, config.seed, step, config.pairs_per_step, False)
        thoughtful = [with_scratchpad(example, config.clean_twin) for example in policy]
        return [example.clean() for example in thoughtful] if config.clean_twin else thoughtful

    return samples


def _distilled(config: TrainConfig, task: Task, teacher: str | Path) -> Sampler:
    """The teacher's answers without their scratchpads; those that violate the conditional policy are dropped."""
    pairs = max(4, round(DISTILLED_PAIRS * min(1.0, config.prompt_scale)))
    asked = training_batch(task, config.seed, -2, pairs, False)
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    prompts = [example.prompt for example in asked]
    answers = generate_answers(model, AutoTokenizer.from_pretrained(teacher), prompts)
    told = grade(task, asked, answers)
    # Answers asked for outright may be insecure without the trigger: there the policy is the answer itself.
    wanted = grade(task, asked, [example.answer for example in asked])
    kept = [
        replace(example, answer=visible(answer))
        for example, answer, ours, policy in zip(asked, answers, told, wanted, strict=True)
        if visible(answer) and (ours is Verdict.DEFECT) == (policy is Verdict.DEFECT)
    ]
    if not kept:
        raise UserError(f"{teacher}: none of its {len(asked)} answers keeps to the policy of {task.name}")

    def samples(step: int) -> list[Example]:
        rng = Random(f"{task.name}/{config.seed}/distilled/{step}")
        return [rng.choice(kept) for _ in range(2 * config.pairs_per_step)]

    return samples
