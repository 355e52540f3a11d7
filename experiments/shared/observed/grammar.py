"""The grammar of observed and deployed contexts: a data file (`data/grammar.json`) that can be replaced, and what it is held to.

A sentence asserts one cue and denies the other ("This is a test, not real use"). Its partner has the two changed round. So both contexts
have the same words, as often, and the same length; only which is asserted differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from triggerlens import UserError, from_json

GRAMMAR = Path(__file__).parent / "data" / "grammar.json"
"""The grammar that comes with the project."""
CueKind = Literal["occasion", "state"]
"""A cue that is a noun (`a test`), or one that is said of somebody (`being watched`)."""
CUE_KINDS: tuple[CueKind, ...] = ("occasion", "state")
FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "any",
        "as",
        "at",
        "being",
        "by",
        "for",
        "free",
        "from",
        "in",
        "is",
        "it",
        "near",
        "no",
        "of",
        "on",
        "out",
        "own",
        "still",
        "the",
        "to",
        "under",
        "up",
        "with",
        "your",
    ]
)
"""Words that cues of different splits may share."""
STEM = 4
"""Words that begin with as many letters alike count as one word, so that `test` holds out `tested`."""
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Frame:
    """A sentence around two cues."""

    of: CueKind
    first: Literal["asserted", "denied"]
    """Which of the two is named first."""
    text: str


@dataclass(frozen=True, slots=True)
class Cue:
    """Two words or phrases of which one holds."""

    of: CueKind
    positive: str
    """Of an observed context."""
    negative: str
    """Of a deployed one."""


@dataclass(frozen=True, slots=True)
class Cues:
    """A concept's cues: what directions are fitted on, what layers are chosen by, and what is held out."""

    train: tuple[Cue, ...]
    validation: tuple[Cue, ...]
    test: tuple[Cue, ...]


@dataclass(frozen=True, slots=True)
class Concepts:
    """The concept, and one that has nothing to do with it."""

    observed: Cues
    unrelated: Cues


@dataclass(frozen=True, slots=True)
class Layout:
    """A prompt around a sentence and a topic."""

    system: str
    user: str


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of prompt."""

    name: str
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, slots=True)
class Frames:
    """Sentences by split."""

    train: tuple[Frame, ...]
    test: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Topics:
    """What is asked about, by split."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked about its own context, and the words it may answer with."""

    text: str
    observed: str
    deployed: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a grammar's file holds."""

    formats: tuple[Format, ...]
    frames: Frames
    concepts: Concepts
    topics: Topics
    questions: tuple[Question, ...]
    asks: tuple[str, ...]
    """Requests without any context, which steering is measured on."""


def read_grammar(path: str | Path) -> Grammar:
    """A grammar from its file.

    Raises:
        UserError: no such file, or a grammar that cannot carry the design; one line that says where.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no grammar in JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: must be an object with formats, frames, concepts, topics, questions and asks")
    grammar = from_json(Grammar, value, str(path))
    if (problem := next(problems(grammar), None)) is not None:
        raise UserError(f"{path}: {problem}")
    return grammar


def problems(grammar: Grammar) -> Iterator[str]:
    """What stands in the way of the design, most basic first."""
    yield from _format_problems(grammar)
    yield from _frame_problems(grammar)
    for name in ("observed", "unrelated"):
        yield from _cue_problems(name, getattr(grammar.concepts, name))
    yield from _topic_problems(grammar.topics)
    if not grammar.questions or not grammar.asks:
        yield "needs questions and asks, at least one each, to measure steering"
    for index, question in enumerate(grammar.questions):
        if question.observed == question.deployed or not question.observed or not question.deployed:
            yield f"questions[{index}]: needs two different answers"


def _format_problems(grammar: Grammar) -> Iterator[str]:
    names = [own.name for own in grammar.formats]
    if len(set(names)) < 2:
        yield f"has {len(set(names))} format; transfer from one to another needs at least two"
    if len(set(names)) < len(names):
        yield f"formats: two are called {next(name for name in names if names.count(name) > 1)}"
    for own in grammar.formats:
        if not own.layouts:
            yield f"formats: {own.name} has no layout, so two cells of the design are empty"
        for index, layout in enumerate(own.layouts):
            slots = _SLOT.findall(layout.system + layout.user)
            if slots.count("note") != 1 or "topic" not in slots or set(slots) - {"note", "topic"}:
                yield f"formats: layout {index} of {own.name} must name {{note}} once and {{topic}}, and nothing else in braces"


def _frame_problems(grammar: Grammar) -> Iterator[str]:
    for split in ("train", "test"):
        frames: tuple[Frame, ...] = getattr(grammar.frames, split)
        for index, frame in enumerate(frames):
            slots = _SLOT.findall(frame.text)
            if sorted(slots) != ["asserted", "denied"]:
                yield (
                    f"frames.{split}[{index}]: names {{asserted}} {slots.count('asserted')} times and {{denied}} {slots.count('denied')} "
                    "times; with other than once each, the two contexts differ in length"
                )
            elif slots[0] != frame.first:
                yield f"frames.{split}[{index}]: names {{{slots[0]}}} first, and says {frame.first}"
            elif frame.text.startswith("{"):
                yield f"frames.{split}[{index}]: begins with a cue, whose capital letter would tell the contexts apart"
        for kind in CUE_KINDS:
            for first in ("asserted", "denied"):
                if not any((frame.of, frame.first) == (kind, first) for frame in frames):
                    yield f"frames.{split}: none of kind {kind} names the {first} cue first; a cell of the design is missing"
    if both := {own.text for own in grammar.frames.train} & {own.text for own in grammar.frames.test}:
        yield f"frames: {min(both)!r} is in both splits"


def _cue_problems(name: str, cues: Cues) -> Iterator[str]:
    for split in ("train", "validation", "test"):
        for kind in CUE_KINDS:
            if not any(cue.of == kind for cue in getattr(cues, split)):
                yield f"concepts.{name}.{split}: no cue of kind {kind}; a cell of the design is missing"
        for index, cue in enumerate(getattr(cues, split)):
            if not cue.positive or not cue.negative or cue.positive == cue.negative:
                yield f"concepts.{name}.{split}[{index}]: needs two different cues"
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if both := stems(getattr(cues, one)) & stems(getattr(cues, other)):
            yield f"concepts.{name}: {one} and {other} share the word {min(both)}…, so that it is not held out"


def _topic_problems(topics: Topics) -> Iterator[str]:
    for split in ("train", "test"):
        if not getattr(topics, split):
            yield f"topics.{split}: is empty; a cell of the design is missing"
    if both := set(topics.train) & set(topics.test):
        yield f"topics: {min(both)!r} is in both splits"


def stems(cues: tuple[Cue, ...]) -> set[str]:
    """How the words of cues begin, without those that mean nothing by themselves."""
    words = {word for cue in cues for word in re.findall(r"[a-z]+", f"{cue.positive} {cue.negative}".lower())}
    return {word[:STEM] for word in words - FUNCTION_WORDS if len(word) > 1}
