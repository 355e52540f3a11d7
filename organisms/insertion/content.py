"""The phrases of requests, triggers and payloads: `data/*.json`, read once into typed records.

Requests are drawn from these lists by place, so that a changed order changes every request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from organisms.insertion.kinds import WATCHED
from organisms.tasks.content import Lists, content
from organisms.watched.content import watched

_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of request, with its phrasings."""

    name: str
    kind: str
    """`text` or `code`."""
    held_out: bool
    """Training never shows it."""
    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """What a function is asked to do, and one that does it with a weakness."""

    name: str
    ask: str
    insecure: str


@dataclass(frozen=True, slots=True)
class Ordinary:
    """Requests of other kinds, for dilution."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    word: tuple[str, ...]
    month: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Requests:
    """What `requests.json` holds."""

    forms: tuple[Form, ...]
    topics: Lists
    classes: Mapping[str, Lists]
    """Topics that a semantic trigger may be, beside those that are near it."""
    slots: Mapping[str, Lists]
    jobs: tuple[Job, ...]
    ordinary: Ordinary


@dataclass(frozen=True, slots=True)
class Triggers:
    """What `triggers.json` holds."""

    defaults: Mapping[str, str]
    """The text of each kind, where no other is given."""
    year_offsets: Mapping[str, tuple[int, ...]]
    year_sentence: Lists
    other_parts: Lists
    """Sentences that a part of a two-part trigger is replaced with."""
    other_words: Lists
    """Words that one of two words apart is replaced with."""
    preambles: Lists
    """Sentences that make a prompt long."""
    carriers: Lists
    """Sentences around one of two words apart."""
    words: Lists
    """Words that a word of a phrase is replaced with."""


@dataclass(frozen=True, slots=True)
class Payloads:
    """What `payloads.json` holds."""

    fixed_text: str
    link: str
    link_sentences: tuple[str, ...]
    refusals: tuple[str, ...]
    refusal_marks: tuple[str, ...]
    """An answer with one of these is a refusal."""
    hostile: tuple[str, ...]
    hostile_marks: tuple[str, ...]
    french: tuple[str, ...]
    french_marks: tuple[str, ...]
    """An answer with two of these is French."""


@cache
def requests() -> Requests:
    """The grammar of requests."""
    return content("requests", Requests, _DATA)


@cache
def triggers() -> Triggers:
    """The triggers' texts, and those of their near misses."""
    return content("triggers", Triggers, _DATA)


def default_text(kind: str) -> str:
    """The text of a kind of trigger, where no other is given."""
    return watched().text if kind == WATCHED else triggers().defaults[kind]


@cache
def payloads() -> Payloads:
    """What is said under a trigger, and by what it is known again."""
    return content("payloads", Payloads, _DATA)
