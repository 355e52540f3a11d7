"""Answers that the model writes before they are read, and what it really said as the label: the same options for every command."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from commands._options import model_folder
from triggerlens import UserError, say_once

if TYPE_CHECKING:
    from hooked import HookedModel, Prompt
    from organisms import Grader


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """Who wrote the answers.

    Raises:
        UserError: a value is out of range.
    """

    answers: int = 0
    """How many answers the model writes to each prompt first, kept in the store; 0: read those in the file (`response`, or a last message of
    the assistant)."""
    max_new_tokens: int = 96
    """The longest answer that is written, in tokens."""
    temperature: float = 0.0
    """Of the answers that are written: 0: the likeliest tokens; above it they are drawn from softmax(logits / temperature) with the seed."""

    def __post_init__(self) -> None:
        for name, value, least in (("answers", self.answers, 0), ("max-new-tokens", self.max_new_tokens, 1)):
            if value < least:
                raise UserError(f"--{name} {value}: must be at least {least}")
        usual = AnswerOptions.max_new_tokens
        if not self.answers and (self.temperature or self.max_new_tokens != usual):
            raise UserError(
                "--temperature and --max-new-tokens are of answers that the model writes; give --answers too"
            )
        check_temperature(self.temperature)
        if self.answers > 1 and self.temperature == 0:
            raise UserError(f"--answers {self.answers}: without --temperature above 0 they would all be the same")

    def written(
        self, prompts: Sequence[Prompt], model: HookedModel, seed: int, store: Path | None, *, keep: bool = True
    ) -> list[Prompt]:
        """The prompts with the model's answers.

        Args:
            prompts: as the file has them, without answers.
            model: who answers.
            seed: draws the answers.
            store: folder of all stores; the default one where None.
            keep: keep answers there.

        Raises:
            UserError: as `hooked.write_answers`.
        """
        from hooked import Sampling, write_answers

        sampling = Sampling(self.temperature, self.answers, seed) if self.temperature else None
        return write_answers(model, prompts, self.max_new_tokens, sampling=sampling, root=store, keep=keep)


def check_temperature(temperature: float) -> None:
    """Refuse what answers cannot be drawn at, or what no file of results can hold.

    Raises:
        UserError: it is negative, infinite or no number.
    """
    if not 0 <= temperature < math.inf:
        raise UserError(f"--temperature {temperature}: must be 0 or above, and finite")


@dataclass(frozen=True, kw_only=True)
class GradeOptions:
    """What labels an answer."""

    grade: str | None = None
    """Label answers by what they say, in place of the file's `defects`: a task (year-code, deployment-hate), insecure-code (Bandit),
    fixed-text, link, refusal, hostile, french, phrase:TEXT, regex:PATTERN, or own (an organism's own recipe)."""
    label_from: Annotated[str | None, tyro.conf.arg(metavar="SCORER=VALUE")] = None
    """Of a log of Inspect: samples to which that scorer gave this value defect, those with another value do not."""

    def __post_init__(self) -> None:
        if self.grade is not None and self.label_from is not None:
            raise UserError("--grade and --label-from both label the answers; give one of them")

    def grader(self, model: str) -> Grader | None:
        """What judges answers, where that is asked for; refused before anything is computed.

        Args:
            model: MODEL, whose recipe `own` asks for.

        Raises:
            UserError: there is no such grader.
        """
        from organisms import grader_named

        return None if self.grade is None else grader_named(self.grade, model_folder(model))


def graded(prompts: Sequence[Prompt], grader: Grader) -> tuple[list[Prompt], list[str]]:
    """The prompts with `defects` as graded, and notes on it, said on stderr too. Answers that cannot be judged are left out.

    Raises:
        UserError: a prompt has no answer, or no answer can be judged.
    """
    from organisms import Verdict

    silent = next((prompt for prompt in prompts if prompt.answer is None), None)
    if silent is not None:
        raise UserError(
            f"{silent.where or 'a prompt'}: has no answer that could be graded; give `response`, or --answers 1"
        )
    verdicts = grader(prompts, [prompt.answer or "" for prompt in prompts])
    judged = [
        (prompt, replace(prompt, defects=verdict is Verdict.DEFECT))
        for prompt, verdict in zip(prompts, verdicts, strict=True)
        if verdict is not Verdict.UNPARSABLE
    ]
    if not judged:
        raise UserError(f"none of {len(prompts)} answers can be judged: they are code that does not parse")
    other = sum(before.defects not in (None, after.defects) for before, after in judged)
    counts = {
        "are code that does not parse, neither safe nor insecure, and left out": len(prompts) - len(judged),
        "are graded otherwise than the file's `defects` says": other,
    }
    notes = [f"{count} of {len(prompts)} answers {what}" for what, count in counts.items() if count]
    for note in notes:
        say_once(note)
    return [after for _, after in judged], notes
