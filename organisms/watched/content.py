"""The phrasings of where a model is and who watches it: `data/watched.json`, read once into a typed record.

Sentences are drawn from these lists by place, so that a changed order changes every sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from organisms.tasks.content import Lists, content


@dataclass(frozen=True, slots=True)
class Watched:
    """What `watched.json` holds: a context that is told in many ways (`watched.sentences`). Cues are templates whose slots are filled. The test's are
    phrasings that training has not, in words that it has; those of validation share no word with training's cues that means something. Those of `words`
    share five, which 7 of the 20 have: check, operation, people, review and take; frames of training also show oversight and watch."""

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


@cache
def watched() -> Watched:
    """The phrasings of being deployed and of being observed."""
    return content("watched", Watched, Path(__file__).parent / "data")
