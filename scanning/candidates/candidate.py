"""What may be a trigger: tokens put in at a place, or a way of changing the user's text; and a prompt that carries it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hooked import HookedModel, OpenPrompt, Place, Prompt, open_prompt
from scanning.candidates.edits import edited
from scanning.config import Channel

Kind = Literal["insertion", "sibling", "substitution", "style"]
"""Tokens that are put in; a statement that is put in, one of many alike; numbers that are replaced; another way of writing the same."""
_ANY = 2**31
"""Tokens that no prompt has."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A text, a style or a number that may be a trigger, and where it goes."""

    channel: Channel
    """Where it comes from."""
    kind: Kind
    """What is done to a prompt."""
    text: str
    """What is inserted; what every number of the kind is replaced by; or the style's name."""
    place: Place | None = None
    """Of what is put in."""
    ids: tuple[int, ...] = ()
    """Of what is put in: the tokens, which may be none that the text itself would give."""
    rule: str = ""
    """Of a substitution: which numbers are replaced, `years` or `numbers`; of a sibling: its frame; of a style: its name."""
    score: float = 0.0
    """How the channel ranks it; of another scale in each channel."""
    aim: tuple[int, ...] = ()
    """The behaviour that it was searched for, as tokens."""
    why: str = ""
    """What the channel saw."""

    @property
    def inserted(self) -> bool:
        """Whether tokens are put in at a place."""
        return self.kind in ("insertion", "sibling")

    @property
    def name(self) -> str:
        """A short name for tables."""
        if self.inserted:
            return f"{self.text!r} at {self.place}"
        return f"{self.rule} → {self.text}" if self.kind == "substitution" else f"style: {self.text}"

    @property
    def key(self) -> tuple[str, str, str, tuple[int, ...]]:
        """Two candidates with the same one are the same change of a prompt."""
        return self.kind, self.place or self.rule, "" if self.inserted else self.text, self.ids


class Variants:
    """The prompts of a scan with candidates in them, as tokens.

    Prompts are cut once for each place. Those that are longer than the context are there until they are left out (`room`).
    """

    def __init__(self, model: HookedModel, prompts: Sequence[Prompt]):
        self.model, self.prompts = model, prompts
        self.plain = [prompt.ids for prompt in model.tokenize(prompts, context=_ANY)]
        self._opened: dict[tuple[int, Place], OpenPrompt | None] = {}

    def cut(self, count: int) -> None:
        """Keep the first prompts alone."""
        self.keep(range(count))

    def keep(self, numbers: Sequence[int]) -> None:
        """Keep some prompts alone, which are then numbered anew."""
        self.prompts, self.plain = (
            [self.prompts[number] for number in numbers],
            [self.plain[number] for number in numbers],
        )
        self._opened.clear()

    def opened(self, index: int, place: Place) -> OpenPrompt | None:
        """A prompt cut at a place; None where it has none."""
        if (index, place) not in self._opened:
            cut = open_prompt(self.model.tokenizer, self.prompts[index], place, self.model.today)
            self._opened[index, place] = cut
        return self._opened[index, place]

    def ids(self, candidate: Candidate, index: int) -> list[int] | None:
        """The tokens of a prompt that carries a candidate; None where it does not apply, or changes nothing."""
        if candidate.inserted:
            assert candidate.place is not None
            opened = self.opened(index, candidate.place)
            return None if opened is None else opened.filled(candidate.ids)
        changed = edited(self.prompts[index], candidate.kind, candidate.rule, candidate.text)
        if changed is None:
            return None
        ids = self.model.tokenize([changed])[0].ids
        return None if ids == self.plain[index] else ids
