"""Which prompts leave room in the context: for the longest text that is put into them, for other ways of writing them, and for an answer after that.

One that leaves none would be answered as it is, and end the scan where it is first judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from hooked import Prompt
from scanning.candidates.candidate import Variants
from scanning.candidates.edits import STYLES, edited
from triggerlens import UserError

TEXT = 64
"""Tokens that are left for a text: more than any shipped one has bytes, any phrase that is searched for has tokens, or random one that it is held against."""
_LONGEST_NUMBER = "12345"
"""Of those by which numbers are replaced."""


def room_needed(new_tokens: int, *texts: int) -> int:
    """Tokens that must be left: for the longest of some texts or of what a scan has itself, and for an answer."""
    return max((TEXT, *texts)) + new_tokens


def with_room(variants: Variants, room: int) -> list[int]:
    """Numbers of the prompts that leave so many tokens, however they are written."""
    return [
        index for index in range(len(variants.prompts)) if _fits(variants, index, variants.model.info.context - room)
    ]


def _fits(variants: Variants, index: int, most: int) -> bool:
    """Whether a prompt has at most so many tokens. Of its other ways of writing only those are tokenized that have more bytes than that: a token has one at
    least.
    """
    prompt, plain = variants.prompts[index], variants.plain[index]
    if len(plain) > most:
        return False
    around = len(plain)  # of the chat template no more than all is
    longer = [changed for changed in _ways(prompt) if _bytes(changed) + around > most]
    try:
        return all(len(row.ids) <= most for row in variants.model.tokenize(longer))
    except UserError:  # longer than the whole context
        return False


def _ways(prompt: Prompt) -> Iterator[Prompt]:
    """All styles, and numbers replaced by longer ones."""
    changes = [("style", name, name) for name in STYLES] + [("substitution", "numbers", _LONGEST_NUMBER)]
    for change in changes:
        changed = edited(prompt, *change)
        if changed is not None:
            yield changed


def _bytes(prompt: Prompt) -> int:
    """Of all that a prompt says."""
    if isinstance(prompt.prompt, str):
        return len(prompt.prompt.encode())
    return sum(len(str(message.get("content")).encode()) for message in prompt.prompt)
