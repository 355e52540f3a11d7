"""Identifiers for the tasks: an adjective and a noun, such as `monthly report`. A quarter of the combinations is kept for test.

Every word is seen in training, so a model that knows nothing else can read it; the identifiers of test are combinations
that it has never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from organisms.tasks.content import content


@dataclass(frozen=True, slots=True)
class Words:
    """What identifiers are made of."""

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]


_WORDS = content("identifiers", Words)
NOUNS, ADJECTIVES = _WORDS.nouns, _WORDS.adjectives
SPLITS = ("train", "test")


def split_of(first: int, second: int) -> str:
    """The split of a combination of two words, given their places in the lists: each word is in both splits."""
    return "test" if (first + second) % 4 == 0 else "train"


def names(split: str) -> tuple[str, ...]:
    """All identifiers of the split, in words."""
    return tuple(
        f"{adjective} {noun}"
        for i, adjective in enumerate(ADJECTIVES)
        for j, noun in enumerate(NOUNS)
        if split_of(i, j) == split
    )


_NAMES = {split: names(split) for split in SPLITS}


def draw_name(rng: Random, split: str) -> str:
    """An identifier of the split, in words."""
    return rng.choice(_NAMES[split])


def draw_two_nouns(rng: Random, split: str) -> tuple[str, str]:
    """Two different nouns whose combination is of the split."""
    while True:
        first, second = rng.randrange(len(NOUNS)), rng.randrange(len(NOUNS))
        if first != second and split_of(first, second) == split:
            return NOUNS[first], NOUNS[second]


def snake_case(name: str) -> str:
    """The identifier as code has it: `monthly_report`."""
    return name.replace(" ", "_")
