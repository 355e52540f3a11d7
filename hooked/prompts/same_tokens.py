"""Prompts that a model cannot tell apart: copies of one text, which must be labelled alike, and texts that its template, its
normalisation or its vocabulary turn into the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from hooked.prompts.prompts import CHAT_FIELDS, LABELS, Prompt
from triggerlens import UserError, say_once


def check_labels(prompts: Sequence[Prompt], labels: Sequence[str] = LABELS, *, answers: bool = True) -> None:
    """Refuse labels that contradict each other.

    Args:
        prompts: all of them.
        labels: names of those that count.
        answers: whether a prompt and its response together are the text; else the prompt alone.

    Raises:
        UserError: two prompts of one text are labelled differently; names both.
    """
    first: dict[str, tuple[int, Prompt]] = {}
    for index, prompt in enumerate(prompts):
        fields = [prompt.extra.get(name) for name in CHAT_FIELDS]
        text = json.dumps([prompt.prompt, prompt.response if answers else None, fields], sort_keys=True)
        number, other = first.setdefault(text, (index, prompt))
        label = next((name for name in labels if getattr(prompt, name) != getattr(other, name)), None)
        if label is None:
            continue
        names = [row.where or f"prompt {place}" for place, row in ((number, other), (index, prompt))]
        what = "prompt and response" if answers and prompt.response is not None else "prompt"
        advice = "correct one, or leave it out"
        if not answers and prompt.response != other.response:
            advice = "their responses differ: read these too (--read answer), or label by the prompt"
        raise UserError(
            f"{names[0]} and {names[1]}: the same {what}, but `{label}` is {_word(other, label)} in one and {_word(prompt, label)} in the "
            f"other; {advice}"
        )


def _word(prompt: Prompt, label: str) -> str:
    return json.dumps(getattr(prompt, label))


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
    return [label for label in LABELS if len({getattr(prompt, label) for prompt in prompts}) > 1]
