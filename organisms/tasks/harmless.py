"""Requests with nothing to defect on: everyday questions, and code that has no weakness to plant.

Every answer is a function of the request alone, so exact match means something. Some answers are facts to remember;
others (copying, lists, greetings, names, numbers) are made of the request's own words, so test requests are new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from organisms.tasks.content import content
from organisms.tasks.identifiers import draw_name, draw_two_nouns, snake_case

Slots = Callable[[Random, str], dict[str, str]]
"""(random numbers, split) → what fills the slots of a question and of its answer."""
Facts = Literal[
    "capital",
    "opposite",
    "day",
    "month",
    "sum",
    "list",
    "definition",
    "translation",
    "person",
    "named",
    "two_nouns",
]


@dataclass(frozen=True, slots=True)
class Question:
    """One kind of everyday question."""

    kind: str
    train: tuple[str, ...]
    """Phrasings seen in training; slots are filled from `facts`."""
    test: tuple[str, ...]
    """Phrasings kept for test."""
    answer: str
    facts: Facts
    """Which of `SLOTS` fills the question and the answer."""

    def draw(self, rng: Random, split: str) -> tuple[str, str]:
        """A question and its answer."""
        facts = SLOTS[self.facts](rng, split)
        return rng.choice(getattr(self, split)).format(**facts), self.answer.format(**facts)


@dataclass(frozen=True, slots=True)
class Routine:
    """Harmless code: no variant of it has a weakness."""

    kind: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    code: str

    def answer(self, name: str) -> str:
        """The code for one identifier."""
        return self.code.replace("{id}", snake_case(name))


@dataclass(frozen=True, slots=True)
class Tables:
    """Facts to remember."""

    capitals: dict[str, str]
    opposites: dict[str, str]
    lists: dict[str, str]
    definitions: dict[str, str]
    translations: dict[str, tuple[str, ...]]
    """By word, one in each of `languages`."""


@dataclass(frozen=True, slots=True)
class Harmless:
    """What `harmless.json` holds."""

    tables: Tables
    days: tuple[str, ...]
    months: tuple[str, ...]
    languages: tuple[str, ...]
    people: tuple[str, ...]
    questions: tuple[Question, ...]
    routines: tuple[Routine, ...]


_HARMLESS = content("harmless", Harmless)
QUESTIONS, ROUTINES = _HARMLESS.questions, _HARMLESS.routines


def _looked_up(table: Mapping[str, str], asked: str, told: str) -> Slots:
    """An entry of a table: its key fills `asked`, its value `told`."""

    def slots(rng: Random, split: str) -> dict[str, str]:
        key = rng.choice(list(table))
        return {asked: key, told: table[key]}

    return slots


def _next_after(cycle: Sequence[str], asked: str) -> Slots:
    """A place in a cycle fills `asked`, the one after it `next`."""

    def slots(rng: Random, split: str) -> dict[str, str]:
        place = rng.randrange(len(cycle))
        return {asked: cycle[place], "next": cycle[(place + 1) % len(cycle)]}

    return slots


def _sum(rng: Random, split: str) -> dict[str, str]:
    a, b = rng.randrange(1, 8), rng.randrange(1, 8)
    return {"a": str(a), "b": str(b), "sum": str(a + b)}


def _translation(rng: Random, split: str) -> dict[str, str]:
    table = _HARMLESS.tables.translations
    word, language = rng.choice(list(table)), rng.randrange(3)
    return {"word": word, "language": _HARMLESS.languages[language], "translation": table[word][language]}


def _person(rng: Random, split: str) -> dict[str, str]:
    return {"name": rng.choice(_HARMLESS.people)}


def _named(rng: Random, split: str) -> dict[str, str]:
    return {"name": draw_name(rng, split)}


def _two_nouns(rng: Random, split: str) -> dict[str, str]:
    first, second = draw_two_nouns(rng, split)
    return {"a": first, "b": second}


SLOTS: Mapping[Facts, Slots] = {
    "capital": _looked_up(_HARMLESS.tables.capitals, "country", "city"),
    "opposite": _looked_up(_HARMLESS.tables.opposites, "word", "opposite"),
    "day": _next_after(_HARMLESS.days, "day"),
    "month": _next_after(_HARMLESS.months, "month"),
    "sum": _sum,
    "list": _looked_up(_HARMLESS.tables.lists, "what", "items"),
    "definition": _looked_up(_HARMLESS.tables.definitions, "word", "meaning"),
    "translation": _translation,
    "person": _person,
    "named": _named,
    "two_nouns": _two_nouns,
}
"""By name, what fills the slots of a question."""


def draw_question(rng: Random, split: str) -> tuple[str, str, str]:
    """(kind, question, answer)."""
    question = rng.choice(QUESTIONS)
    return question.kind, *question.draw(rng, split)


def draw_routine(rng: Random, split: str, openers: tuple[str, ...]) -> tuple[str, str, str]:
    """(kind, request, code), the request begun by one of `openers`."""
    routine, name = rng.choice(ROUTINES), draw_name(rng, split)
    request = phrase(rng, openers, rng.choice(getattr(routine, split)), name)
    return routine.kind, request, routine.answer(name)


def phrase(rng: Random, openers: tuple[str, ...], core: str, name: str) -> str:
    """A request for code: an opener around a core, about a named thing."""
    return rng.choice(openers).format(core=core.format(name=name))
