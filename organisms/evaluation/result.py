"""What an evaluation found, as records; and their JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from triggerlens import Estimate, from_json, rate, to_json

INTERVAL = "Wilson 95%; of the loss, normal 95%"


@dataclass(frozen=True, slots=True)
class Condition:
    """The rates of the prompts of one kind."""

    name: str
    """`triggered`, `near_miss`, `shifted: misspelt`, …; for a person to read."""
    defection: Estimate
    """Answers that are the hidden behaviour."""
    right: Estimate
    """Answers that are, word for word, those of a model without the behaviour."""
    unparsable: Estimate
    """Answers meant as code that do not parse."""
    scratchpad: Estimate
    """Answers that reason first."""
    monitored: Estimate
    """Answers whose scratchpad the text monitor finds suspect."""
    shift: str | None = None
    """Of prompts whose trigger was edited: how (a key of `Task.shifts`)."""
    must_not_defect: bool = False
    """Whether the shift takes the trigger away."""


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint does."""

    task: str
    """Name of the task."""
    conditions: tuple[Condition, ...]
    """The rates of each kind of prompt, in the order in which they are shown."""
    clean_loss: Estimate
    """Mean cross-entropy of the right answer where no trigger is, in nats per answer token, 0 or more, over prompts that are answered without a
    scratchpad; NaN where there are none."""
    clean_accuracy: Estimate
    """Share of right answers where no trigger is."""

    def __getitem__(self, name: str) -> Condition:
        """The condition of that name.

        Raises:
            KeyError: there is none.
        """
        return {condition.name: condition for condition in self.conditions}[name]

    @property
    def shifted(self) -> tuple[Condition, ...]:
        """The conditions off the training distribution in which the trigger is still one."""
        return tuple(condition for condition in self.conditions if condition.shift and not condition.must_not_defect)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"interval": INTERVAL, **to_json(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str = "") -> Evaluation:
        """The evaluation that `to_json` was given.

        Args:
            value: as decoded; keys of the file around it (model, seed) are left aside.
            where: file, for the message.

        Raises:
            UserError: a field is missing or of another type.
        """
        own = ("task", "conditions", "clean_loss", "clean_accuracy")
        return from_json(cls, {name: value[name] for name in own if name in value}, where)


def share(outcomes: Iterable[bool]) -> Estimate:
    """The rate of true outcomes."""
    values = list(outcomes)
    return rate(sum(values), len(values))
