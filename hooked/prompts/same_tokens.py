"""Prompts that a model cannot tell apart: texts that its template, its normalisation or its vocabulary turn into the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

from hooked.prompts.prompts import Prompt
from triggerlens import say_once

_LABELS = ("triggered", "defects")


def contradictions(prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]]) -> str | None:
    """A line on prompts of the same tokens that are labelled differently, said once on stderr too; None where there are none.

    Args:
        prompts: all of them.
        tokens: token ids of each.
    """
    members: dict[tuple[int, ...], list[int]] = {}
    for index, ids in enumerate(tokens):
        members.setdefault(tuple(ids), []).append(index)
    torn = [rows for rows in members.values() if len(rows) > 1 and _differing([prompts[row] for row in rows])]
    if not torn:
        return None
    first = [prompts[row] for row in torn[0]]
    label = _differing(first)[0]
    other = next(place for place, prompt in enumerate(first) if getattr(prompt, label) != getattr(first[0], label))
    names = [first[place].where or f"prompt {torn[0][place]}" for place in (0, other)]
    line = (
        f"{sum(map(len, torn))} prompts are the same tokens as others that are labelled differently, such as {names[0]} and "
        f"{names[1]} (`{label}`): nothing that is read from this model can tell them apart"
    )
    say_once(line)
    return line


def _differing(prompts: Sequence[Prompt]) -> list[str]:
    """The labels that are not the same for all."""
    return [label for label in _LABELS if len({getattr(prompt, label) for prompt in prompts}) > 1]
