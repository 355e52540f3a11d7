"""The options of an evaluation: the command line of `organism-eval`."""

from __future__ import annotations

from dataclasses import dataclass

from triggerlens import UserError


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Which prompts a checkpoint is asked.

    Raises:
        UserError: a value out of range.
    """

    task: str | None = None
    """`year-code`, `deployment-hate`, or either with another trigger (`year-code+style`); by default the model's own."""
    limit: int = 250
    """Most prompts of each kind."""
    seed: int | None = None
    """Of the prompts; by default that of the model's training, whose test prompts it never saw."""

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UserError(f"--limit must be at least 1, found {self.limit}")
