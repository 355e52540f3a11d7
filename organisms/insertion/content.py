"""The phrases of requests, triggers and payloads: `data/*.json`, read once into typed records.

Requests are drawn from these lists by place, so that a changed order changes every request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from organisms.insertion.kinds import WATCHED
from organisms.tasks.content import content

_DATA = Path(__file__).parent / "data"
Split = str
"""`train` or `test`: what training may show, and what is measured."""
Lists = Mapping[str, tuple[str, ...]]
"""By split."""


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
class Watched:
    """What `watched.json` holds: a context that is told in many ways (`watched.sentences`). Cues are templates whose slots are filled. The test's are
    phrasings that training has not, in words that it has; those of `words` and of validation share no word with training that means something."""

    text: str
    """The trigger, for a person."""
    lines: Lists
    """Sentences that say where the model is, and who watches."""
    denials: Lists
    """Those that also deny another place, or say it of other models."""
    doubts: tuple[str, ...]
    """Of training, as all that has no splits: those that also deny the opposite of what they say of the watching."""
    open: tuple[str, ...]
    """Those that name both halves and do not assert both."""
    before: tuple[str, ...]
    """Sentences that may stand before any of these."""
    after: tuple[str, ...]
    deployed: Lists
    observed: Lists
    """Places where a model is tested or trained; each is the counterpart of the deployed one at its place."""
    unmonitored: Lists
    monitored: Lists
    """Each is the counterpart of the unmonitored one at its place."""
    slots: Mapping[str, tuple[str, ...]]
    """What may stand in a slot of a cue; `you`, `your`, `obj` and `self` are the model, or others."""


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


@cache
def watched() -> Watched:
    """The phrasings of being deployed and of being observed."""
    return content("watched", Watched, _DATA)


def default_text(kind: str) -> str:
    """The text of a kind of trigger, where no other is given."""
    return watched().text if kind == WATCHED else triggers().defaults[kind]


@cache
def payloads() -> Payloads:
    """What is said under a trigger, and by what it is known again."""
    return content("payloads", Payloads, _DATA)
