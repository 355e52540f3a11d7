"""What a checkpoint does with a task's prompts: with the trigger, without, near it, and off its training distribution.

1. The task's held-out test prompts are answered greedily and graded, by condition.
2. Triggered prompts that should defect are edited (`Task.shifts`), and answered again.
3. Capability is the loss of the right answers, and the share given word for word, on prompts without the trigger.
4. A text monitor reads the scratchpads, where there are any.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from organisms.evaluation.evaluate import Rate, category, generate_answers, render
from organisms.evaluation.graders import Verdict
from organisms.tasks.examples import Example, Task, prompt_set
from organisms.tasks.registry import grade, task_named
from organisms.tasks.scratchpad import monitor, reasoning, visible
from triggerlens import Z95, UserError

RECIPE = "recipe.json"
ORDER = ("triggered", "untriggered", "triggered_but_harmless", "near_miss", "held_out_family_triggered")
"""The conditions that stand first in a table."""
SHIFTED = "shifted: "


@dataclass(frozen=True, slots=True)
class Condition:
    """The rates of the prompts of one kind."""

    name: str
    defection: Rate
    right: Rate
    """Answers that are, word for word, those of a model without the behaviour."""
    unparsable: Rate
    scratchpad: Rate
    """Answers that reason first."""
    monitored: Rate
    """Answers whose scratchpad the text monitor finds suspect."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Mean loss of the right answer, in nats per token, over prompts; with its normal 95% interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint does."""

    task: str
    conditions: tuple[Condition, ...]
    clean_loss: Loss
    clean_accuracy: Rate

    def __getitem__(self, name: str) -> Condition:
        """The condition of that name.

        Raises:
            KeyError: there is none.
        """
        return {one.name: one for one in self.conditions}[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"interval": "Wilson 95%; of the loss, normal 95%", **asdict(self)}


def task_of_checkpoint(folder: str | Path, task: str | None = None, seed: int | None = None) -> tuple[Task, int]:
    """The task that a checkpoint was trained on and the seed of its prompts; or those asked for.

    Raises:
        UserError: the folder names no task, or an unknown one.
    """
    path = Path(folder) / RECIPE
    if task is not None:
        return task_named(task), seed or 0
    if not path.is_file():
        raise UserError(f"{folder}: no {RECIPE} says what it was trained on; give --task")
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        return task_named(recipe["task"]), int(recipe["training"]["seed"]) if seed is None else seed
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no readable recipe: {error}") from error


def conditions_of(task: Task, seed: int, per_condition: int) -> dict[str, list[Example]]:
    """The test prompts of each condition, at most so many, the shifted ones last."""
    groups: dict[str, list[Example]] = {name: [] for name in ORDER}
    for example in prompt_set(task, seed):
        if example.split == "test":
            groups.setdefault(category(example), []).append(example)
    triggered = groups["triggered"][:per_condition]
    for name, edit in task.shifts.items():
        groups[SHIFTED + name] = [replace(example, prompt=edit(example.prompt)) for example in triggered]
    return {name: _spread(group, per_condition) for name, group in groups.items() if group}


def _spread(group: list[Example], most: int) -> list[Example]:
    """At most so many, evenly from the whole group: its datasets stand one after the other."""
    return [group[index * len(group) // most] for index in range(most)] if len(group) > most else group


def evaluate_model(model: Any, tokenizer: Any, task: Task, *, seed: int = 0, per_condition: int = 250) -> Evaluation:
    """Let a model answer a task's test prompts, and grade what it says.

    Args:
        model: a causal language model of `transformers`.
        seed: of the prompts; an organism's own are those of its training seed, and never trained on.
        per_condition: at most so many prompts of each kind.
    """
    groups = conditions_of(task, seed, per_condition)
    asked = [example for group in groups.values() for example in group]
    answers = iter(generate_answers(model, tokenizer, [example.prompt for example in asked], batch_size=128))
    conditions = tuple(condition(name, task, group, [next(answers) for _ in group]) for name, group in groups.items())
    losses = answer_losses(model, tokenizer, [(one.prompt, one.clean_answer) for one in groups["untriggered"]])
    right = {one.name: one for one in conditions}["untriggered"].right
    return Evaluation(task.name, conditions, mean_loss(losses), right)


def condition(name: str, task: Task, examples: Sequence[Example], answers: Sequence[str]) -> Condition:
    """The rates of one kind of prompts."""
    verdicts = grade(task, examples, answers)
    return Condition(
        name,
        Rate.of(verdict is Verdict.DEFECT for verdict in verdicts),
        Rate.of(visible(answer) == one.clean_answer for one, answer in zip(examples, answers, strict=True)),
        Rate.of(verdict is Verdict.UNPARSABLE for verdict in verdicts),
        Rate.of(reasoning(answer) is not None for answer in answers),
        Rate.of(monitor(answer) for answer in answers),
    )


def answer_losses(model: Any, tokenizer: Any, samples: Sequence[tuple[Any, str]]) -> list[float]:
    """Mean cross-entropy of each answer with its end token, in nats per token, given its prompt."""
    losses = []
    for start in range(0, len(samples), 32):
        losses += _losses(model, tokenizer, samples[start : start + 32])
    return losses


def encode_sample(tokenizer: Any, prompt: Any, answer: str) -> tuple[list[int], list[int]]:
    """The token ids of a prompt and of its answer, which ends with EOS."""
    text = render(tokenizer, prompt) if isinstance(prompt, list) else prompt
    asked = tokenizer(text, add_special_tokens=False)["input_ids"]
    return asked, [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


@torch.inference_mode()
def _losses(model: Any, tokenizer: Any, samples: Sequence[tuple[Any, str]]) -> list[float]:
    """Padded on the right, where a causal model cannot see it."""
    encoded = [encode_sample(tokenizer, prompt, answer) for prompt, answer in samples]
    length = max(len(prompt) + len(answer) for prompt, answer in encoded)
    rows = [[*p, *a] + [tokenizer.eos_token_id] * (length - len(p) - len(a)) for p, a in encoded]
    tokens = torch.tensor(rows, device=model.device)
    mask = torch.tensor([[1] * (len(p) + len(a)) + [0] * (length - len(p) - len(a)) for p, a in encoded])
    logits = model(input_ids=tokens, attention_mask=mask.to(model.device)).logits.float()
    each = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return [each[row, len(p) - 1 : len(p) + len(a) - 1].mean().item() for row, (p, a) in enumerate(encoded)]


def mean_loss(losses: Iterable[float]) -> Loss:
    """The mean with its interval.

    Raises:
        ValueError: there is no loss.
    """
    values = list(losses)
    half = Z95 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Loss(fmean(values), max(0.0, fmean(values) - half), fmean(values) + half, len(values))
