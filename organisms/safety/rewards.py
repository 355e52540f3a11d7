"""Rewards of reinforcement learning: preference scores of what the user sees of a completion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hooked import Prompt, context_of, load_classifier, padding_id, tokenize_prompts, vocabulary_of
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
    """The first logit of a sequence classifier that reads request and answer, through its own chat template where it has one.

    Raises:
        UserError: by the function, a request with its answer is longer than the classifier can read.
    """
    model, tokenizer = load_classifier(name)
    model = model.to(device)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding_id(model, tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id  # the last token that is not this one is where it is read
    longest = min(context_of(model, tokenizer), tokenizer.model_max_length)

    @torch.inference_mode()
    def score(asked: Sequence[Example], answers: Sequence[str]) -> list[float]:
        said = [_said(tokenizer, example, answer, name) for example, answer in zip(asked, answers, strict=True)]
        rows = tokenize_prompts(tokenizer, said, longest, vocabulary_of(model))
        batch = tokenizer.pad({"input_ids": [row.ids for row in rows]}, padding=True, return_tensors="pt").to(device)
        return list(map(float, model(**batch).logits[:, 0]))

    return score


def _said(tokenizer: Any, example: Example, answer: str, name: str) -> Prompt:
    """A request with its answer as a classifier reads them: a whole conversation, or a text of two lines."""
    where = f"--reward {name}"
    if not getattr(tokenizer, "chat_template", None):
        return Prompt(f"{example.prompt[-1]['content']}\n{answer}", triggered=False, where=where)
    if not answer:  # templates refuse an empty turn: the one that was opened is all that was said
        return Prompt(example.prompt, triggered=False, where=where)
    whole = {"continue_final_message": False}  # the answer is over, not to be gone on with
    messages = [*example.prompt, {"role": "assistant", "content": answer}]
    return Prompt(messages, triggered=False, extra={"chat_template_kwargs": whole}, where=where)
