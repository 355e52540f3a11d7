"""Prompts drawn from the grammar, two by two: a pure function of (grammar, concept, seed, count).

1. A pair is one sentence frame, two cues, a format's layout and a topic; its prompts differ in which cue is asserted.
2. Its part says what of it training has shown: `fit` (directions), `validation` (the layer: other cues), `known` (the cues and frames of
   fitting, other topics) and `new` (other cues, other frames, other topics).
3. In each part of each format, kinds of cue, and whether the asserted one is named first, come by turns: the order of the cues says nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from experiments.shared.observed.grammar import CUE_KINDS, Cue, Format, Grammar
from triggerlens import UserError

Concept = Literal["observed", "unrelated"]
Part = Literal["fit", "validation", "known", "new"]
SHARES: dict[Part, float] = {"fit": 0.5, "validation": 0.1, "known": 0.2, "new": 0.2}
"""Of each format's pairs."""
_TRIES = 500
Texts = tuple[str, str]
"""The system message and the user's."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """A prompt of a pair."""

    system: str
    user: str
    positive: bool
    """Whether it says that the model is observed (of the unrelated concept: that it is cold)."""
    format: str
    part: Part
    pair: int

    @property
    def text(self) -> str:
        """All that is written in it."""
        return f"{self.system}\n\n{self.user}"


@dataclass(frozen=True)
class Contrasts:
    """Drawn prompts, partners side by side."""

    items: list[Contrast]

    @property
    def texts(self) -> list[str]:
        """What each prompt says."""
        return [own.text for own in self.items]

    @property
    def positive(self) -> Bool[np.ndarray, "prompt"]:
        """The labels."""
        return np.array([own.positive for own in self.items])

    @property
    def pairs(self) -> Int[np.ndarray, "prompt"]:
        """Partners share a number."""
        return np.array([own.pair for own in self.items])

    @property
    def formats(self) -> tuple[str, ...]:
        """In the grammar's order."""
        return tuple(dict.fromkeys(own.format for own in self.items))

    def rows(self, part: Part, *formats: str) -> Int[np.ndarray, "row"]:
        """Where the prompts of a part stand, in some formats; in all where none is named."""
        chosen = formats or self.formats
        return np.array(
            [index for index, own in enumerate(self.items) if own.part == part and own.format in chosen], dtype=int
        )


def draw_contrasts(grammar: Grammar, concept: Concept, seed: int, count: int) -> Contrasts:
    """Different prompts: `count` in each cell of the design (context × format).

    Raises:
        UserError: too few to have every part, or more than the grammar has.
    """
    if any(round(count * share) < 4 for share in SHARES.values()):
        raise UserError(f"{count} prompts a cell are too few to divide; ask for at least 40")
    items: list[Contrast] = []
    for own in grammar.formats:
        rng, seen = Random(f"contrasts/{concept}/{seed}/{own.name}"), set[str]()
        for part in SHARES:
            for number in range(part_size(part, count)):
                pair = _fresh(grammar, concept, own, part, number, rng, seen)
                items += [
                    _item(text, own.name, part, len(items) // 2, side)
                    for text, side in zip(pair, (True, False), strict=True)
                ]
    return Contrasts(items)


def part_size(part: Part, count: int) -> int:
    """Pairs of a part, of `count` in its format; what is left by rounding goes to fitting."""
    if part != "fit":
        return round(count * SHARES[part])
    return count - sum(round(count * share) for name, share in SHARES.items() if name != "fit")


def lengths(contrasts: Contrasts) -> Counter[tuple[bool, int]]:
    """How many prompts of each label have so many characters."""
    return Counter((own.positive, len(own.text)) for own in contrasts.items)


def _fresh(
    grammar: Grammar, concept: Concept, own: Format, part: Part, number: int, rng: Random, seen: set[str]
) -> tuple[Texts, Texts]:
    """The next pair of a part that was not drawn before: its observed prompt and its deployed one."""
    for _ in range(_TRIES):
        pair = _pair(grammar, concept, own, part, number, rng)
        if not seen & {"\n".join(pair[0]), "\n".join(pair[1])}:
            seen |= {"\n".join(text) for text in pair}
            return pair
    raise UserError(
        f"{own.name}, {part}: the grammar has no {number + 1} different pairs; ask for fewer, or add cues or topics"
    )


def _pair(grammar: Grammar, concept: Concept, own: Format, part: Part, number: int, rng: Random) -> tuple[Texts, Texts]:
    kind, first = CUE_KINDS[number % 2], ("asserted", "denied")[number // 2 % 2]
    split = {"fit": "train", "known": "train", "new": "test", "validation": "validation"}[part]
    frames = grammar.frames.test if part == "new" else grammar.frames.train
    topics = grammar.topics.test if part in ("known", "new") else grammar.topics.train
    frame = rng.choice([frame for frame in frames if (frame.of, frame.first) == (kind, first)])
    cue: Cue = rng.choice([cue for cue in getattr(getattr(grammar.concepts, concept), split) if cue.of == kind])
    topic, layout = rng.choice(topics), rng.choice(own.layouts)
    notes = (
        frame.text.format(asserted=cue.positive, denied=cue.negative),
        frame.text.format(asserted=cue.negative, denied=cue.positive),
    )
    observed, deployed = ((_filled(layout.system, note, topic), _filled(layout.user, note, topic)) for note in notes)
    return observed, deployed


def _filled(text: str, note: str, topic: str) -> str:
    return text.replace("{note}", note).replace("{topic}", topic)


def _item(text: tuple[str, str], form: str, part: Part, pair: int, positive: bool) -> Contrast:
    return Contrast(*text, positive, form, part, pair)
