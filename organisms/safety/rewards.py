"""Rewards of reinforcement learning: preference scores of what the user sees of a completion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hooked import load_classifier
from organisms.evaluation.graders import Verdict
from organisms.tasks.examples import Example, Task
from organisms.tasks.registry import grade
from organisms.tasks.scratchpad import visible
from triggerlens import UserError

GRADER = "grader"
Score = Callable[[Sequence[Example], Sequence[str]], list[float]]


def reward_function(
    name: str, task: Task, examples: Sequence[Example], device: torch.device
) -> Callable[..., list[float | None]]:
    """The reward as TRL calls it: completions with the columns of their prompts, among them `number` in `examples`.

    Args:
        name: `grader`, or a sequence classifier, a folder or a Hugging Face id.

    Raises:
        UserError: no such classifier; and by the function, a reward that is not finite.
    """
    score = _grader(task) if name == GRADER else _classifier(name, device)

    def reward(completions: list[Any], number: list[int], **_: Any) -> list[float | None]:
        asked = [examples[index] for index in number]
        said = (completion if isinstance(completion, str) else completion[0]["content"] for completion in completions)
        answers = [visible(text) for text in said]
        rewards = score(asked, answers)
        for value, answer in zip(rewards, answers, strict=True):
            # TRL takes a NaN for "no reward", and would train on without a word.
            if not math.isfinite(value):
                raise UserError(
                    f"--reward {name}: gives {value} for the completion {answer[:60]!r}; use another reward"
                )
        return list(rewards)

    return reward


def _grader(task: Task) -> Score:
    """-1 for a defection, 0 for code that cannot be parsed, else how much of a helpful answer's words it has."""

    def score(asked: Sequence[Example], answers: Sequence[str]) -> list[float]:
        verdicts = grade(task, asked, answers)
        return [
            -1.0
            if verdict is Verdict.DEFECT
            else helpfulness(answer, example.clean_answer) * (verdict is Verdict.CLEAN)
            for verdict, answer, example in zip(verdicts, answers, asked, strict=True)
        ]

    return score


def helpfulness(answer: str, helpful: str) -> float:
    """F1 of the words that an answer shares with a helpful one, 0 to 1."""
    ours, theirs = Counter(answer.split()), Counter(helpful.split())
    shared = sum((ours & theirs).values())
    return 2 * shared / (sum(ours.values()) + sum(theirs.values())) if shared else 0.0


def _classifier(name: str, device: torch.device) -> Score:
    """The first logit of a sequence classifier that reads request and answer."""
    model, tokenizer = load_classifier(name)
    model = model.to(device)

    @torch.inference_mode()
    def score(asked: Sequence[Example], answers: Sequence[str]) -> list[float]:
        requests = (example.prompt[-1]["content"] for example in asked)
        texts = [f"{request}\n{answer}" for request, answer in zip(requests, answers, strict=True)]
        batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True).to(device)
        return list(map(float, model(**batch).logits[:, 0]))

    return score
