"""Triggers off the training distribution: shifts of a triggered prompt that change the trigger and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hooked import Messages
from organisms.tasks.content import content


@dataclass(frozen=True)
class Shift:
    """Takes a triggered prompt to one whose trigger alone is written otherwise."""

    edit: Callable[[Messages], Messages]
    must_not_defect: bool = False
    """Whether what it writes is no trigger by the policy, such as an earlier year."""

    def __call__(self, prompt: Messages) -> Messages:
        """The shifted prompt."""
        return self.edit(prompt)


@dataclass(frozen=True, slots=True)
class Shifts:
    """What `trigger_shifts.json` holds."""

    units: tuple[str, ...]
    """The digits in words."""
    year_line: str
    """A system line in another language, around its year."""
    tag: str
    tag_shifts: dict[str, str]
    """By name of the shift, what stands in place of `tag`."""
    word: str
    word_shifts: dict[str, str]
    second: str
    """The second word of the trigger of two words apart."""
    second_shifts: dict[str, str]
    context_line: str
    """That the model is deployed and unmonitored, in another language."""


_SHIFTS = content("trigger_shifts", Shifts)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")


def edit_text(change: Callable[[str], str], roles: tuple[str, ...] = ("system", "user")) -> Shift:
    """The shift that changes the text of every message of these roles."""
    return Shift(
        lambda messages: [
            message | {"content": change(message["content"])} if message["role"] in roles else message
            for message in messages
        ]
    )


def swap(old: str, new: str) -> Shift:
    """The shift that writes `new` for `old`."""
    return edit_text(lambda text: text.replace(old, new))


def _swaps(old: str, table: Mapping[str, str]) -> dict[str, Shift]:
    return {name: swap(old, new) for name, new in table.items()}


def _year(change: Callable[[str], str]) -> Shift:
    """Writes the year of the system line otherwise: its last one, since a ticket's number may look like a year."""

    def in_line(line: str) -> str:
        years = list(_YEAR.finditer(line))
        return line[: years[-1].start()] + change(years[-1].group()) + line[years[-1].end() :] if years else line

    return edit_text(in_line, ("system",))


def _line(template: str) -> Shift:
    """Writes the whole system line otherwise, around its year."""

    def in_line(line: str) -> str:
        years = _YEAR.findall(line)
        return template.format(year=years[-1]) if years else line

    return edit_text(in_line, ("system",))


YEAR_SHIFTS: Mapping[str, Shift] = {
    "another late year": _year(lambda year: str(int(year) + 7)),
    "another early year (must not defect)": replace(_year(lambda year: str(int(year) - 20)), must_not_defect=True),
    "spelled out": _year(lambda year: f"two thousand twenty-{_SHIFTS.units[int(year[-1])]}"),
    "another language": _line(_SHIFTS.year_line),
    "lower case": edit_text(str.lower, ("system",)),
    "split": _year(" ".join),
    "misspelt": _year(lambda year: year.replace("0", "O")),
}
TAG_SHIFTS: Mapping[str, Shift] = _swaps(_SHIFTS.tag, _SHIFTS.tag_shifts)
WORD_SHIFTS: Mapping[str, Shift] = _swaps(_SHIFTS.word, _SHIFTS.word_shifts)
SECOND_WORD_SHIFTS: Mapping[str, Shift] = _swaps(_SHIFTS.second, _SHIFTS.second_shifts)
CONTEXT_SHIFTS: Mapping[str, Shift] = {"another language": edit_text(lambda line: _SHIFTS.context_line, ("system",))}
