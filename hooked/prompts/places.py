"""Prompts cut in two at a place, as tokens, so that tokens can be put in there.

The place is found through the chat template: the prompt is rendered with a mark in it. The text without the mark is tokenized
whole, and cut between two tokens; only where a token would straddle the place are the two halves tokenized apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

from hooked.prompts.prompts import Messages, Prompt
from hooked.prompts.rendering import render
from hooked.prompts.tokens import encode_texts
from triggerlens import UserError

Place = Literal["start", "middle", "end", "system"]
"""`start`: before the user's text; `middle`: between two words near its middle; `end`: after it; `system`: after the system message's text."""
_MARK = "\u2063\u2063here\u2063\u2063"
"""Invisible separators: no chat template changes or strips them."""
_BEHIND = "a"
"""What stands before a text that is looked at as a part of a longer one."""


@dataclass(frozen=True, slots=True)
class OpenPrompt:
    """A prompt, cut in two."""

    before: tuple[int, ...]
    """Token ids up to the place, special tokens included."""
    after: tuple[int, ...]
    """Token ids from there on."""
    left: str
    """The text of `before`, after the chat template."""
    right: str
    """The text of `after`."""
    chat: bool
    """Whether a chat template wrote it, special tokens included."""

    def filled(self, ids: Sequence[int]) -> list[int]:
        """The prompt's tokens with these in between."""
        return [*self.before, *ids, *self.after]


def open_prompt(tokenizer: Any, prompt: Prompt | str, place: Place, today: date | None = None) -> OpenPrompt | None:
    """Cut a prompt at a place; None where it has no such place: no system message, or no blank between two words.

    At the start a blank is put before the user's text, as when something is typed before it; at the end, what is inserted
    must begin with its own.

    Args:
        tokenizer: the model's.
        prompt: a text, or chat messages, which go through the chat template.
        place: where to cut.
        today: the date given to a chat template that asks for one; the one pinned to the tokenizer where None.

    Raises:
        UserError: the chat template refuses the prompt, or changes the text that was marked.
    """
    record = prompt if isinstance(prompt, Prompt) else Prompt(prompt, triggered=False)
    marked = with_text_at(record, place, _MARK)
    if marked is None:
        return None
    text = render(tokenizer, marked, today)
    left, mark, right = text.partition(_MARK)
    if not mark or _MARK in right:
        raise UserError(
            f"{record.where or 'prompt'}: the chat template changes what the user's text says, so nothing can be put into it"
        )
    chat = not isinstance(record.prompt, str)
    before, after = _cut(tokenizer, left, right, chat)
    return OpenPrompt(tuple(before), tuple(after), left, right, chat)


def inserted_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens as they stand behind another one, with the blank that they bring: alone, tokenizers of SentencePiece's kind decode them without."""
    before = encode_texts(tokenizer, [_BEHIND], special=False)[0]
    alone, both = (tokenizer.decode([*before, *more], clean_up_tokenization_spaces=False) for more in ((), tuple(ids)))
    return both.removeprefix(alone)


def inserted_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text as it stands behind another one: alone, some tokenizers put a blank more before it."""
    before, both, alone = encode_texts(tokenizer, [_BEHIND, _BEHIND + text, text], special=False)
    return both[len(before) :] if both[: len(before)] == before else alone


def round_trips(tokenizer: Any, opened: OpenPrompt, ids: Sequence[int]) -> bool:
    """Whether the text of inserted tokens, typed at that place, gives these very tokens.

    Args:
        tokenizer: the model's.
        opened: the prompt that they are put into.
        ids: the inserted tokens.
    """
    text = opened.left + inserted_text(tokenizer, ids) + opened.right
    return encode_texts(tokenizer, [text], special=not opened.chat)[0] == opened.filled(ids)


def user_text(prompt: Prompt) -> str:
    """The text that the user wrote last; all of it where the prompt is plain text.

    Raises:
        UserError: there is none, or it is no plain string.
    """
    if isinstance(prompt.prompt, str):
        return prompt.prompt
    index = _index_of(prompt.prompt, "user")
    content = None if index is None else prompt.prompt[index].get("content")
    if not isinstance(content, str) or not content.strip():
        raise UserError(f"{prompt.where or 'prompt'}: has no message of the user's that is a text")
    return content


def with_user_text(prompt: Prompt, text: str) -> Prompt:
    """The prompt with another text in place of the user's last one."""
    return replace(prompt, prompt=text if isinstance(prompt.prompt, str) else _replaced(prompt.prompt, "user", text))


def with_text_at(prompt: Prompt, place: Place, text: str) -> Prompt | None:
    """The prompt with a text at a place, as one would type it; None where it has no such place (`open_prompt`).

    At the end and in the system message (the last, if there are several) the text must begin with its own blank.

    Args:
        prompt: the prompt, which is left as it is.
        place: where to put the text.
        text: what is put there.

    Raises:
        UserError: as `user_text`.
    """
    if place == "system":
        messages = prompt.prompt
        index = None if isinstance(messages, str) else _index_of(messages, "system")
        if isinstance(messages, str) or index is None or not isinstance(messages[index]["content"], str):
            return None
        said = messages[index]["content"].rstrip()
        return replace(prompt, prompt=_replaced(messages, "system", said + text))
    said = user_text(prompt).strip()
    if place == "start":
        return with_user_text(prompt, f"{text} {said}")
    if place == "end":
        return with_user_text(prompt, said + text)
    blanks = [index for index, letter in enumerate(said) if letter == " "]
    if not blanks:
        return None
    middle = min(blanks, key=lambda index: abs(index - len(said) / 2))
    return with_user_text(prompt, said[:middle] + text + said[middle:])


def _index_of(messages: Messages, role: str) -> int | None:
    """The last message of a role."""
    return next((index for index in reversed(range(len(messages))) if messages[index]["role"] == role), None)


def _replaced(messages: Messages, role: str, text: str) -> Messages:
    index = _index_of(messages, role)
    return [message | {"content": text} if number == index else message for number, message in enumerate(messages)]


def _cut(tokenizer: Any, left: str, right: str, chat: bool) -> tuple[list[int], list[int]]:
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(left + right, add_special_tokens=not chat, return_offsets_mapping=True, verbose=False)
        ids, spans = encoded["input_ids"], encoded["offset_mapping"]
        whole = [index for index, (start, end) in enumerate(spans) if end > start]
        if not any(spans[index][0] < len(left) < spans[index][1] for index in whole):
            cut = next((index for index in whole if spans[index][0] >= len(left)), None)
            if cut is None:
                cut = 1 + max(whole, default=-1)
            return ids[:cut], ids[cut:]
    begin, end = ([], []) if chat else _special(tokenizer)
    halves = encode_texts(tokenizer, [left, right], special=False)
    return [*begin, *halves[0]], [*halves[1], *end]


def _special(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare, whole = (encode_texts(tokenizer, ["a"], special=special)[0] for special in (False, True))
    starts = (start for start in range(len(whole)) if whole[start : start + len(bare)] == bare)
    start = next(starts, 0)
    return whole[:start], whole[start + len(bare) :]
