"""One labelled prompt, and the JSON object that a line of `prompts.jsonl` holds, read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from triggerlens import UserError

Messages = list[dict[str, Any]]
"""Chat messages: objects with `role` and `content`, and whatever else the chat template reads."""

LABELS = ("triggered", "defects")
CHAT_FIELDS = ("tools", "documents", "chat_template_kwargs")
"""Fields of a prompt beside its messages that a chat template may read."""
_KNOWN = ("prompt", "triggered", "response", "response_ids", "pair", "defects", "split", "dataset")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One labelled prompt."""

    prompt: str | Messages
    """Plain text, or chat messages (`role`, `content`), rendered later with the tokenizer's chat template."""
    triggered: bool
    """Whether the text carries the trigger."""
    defects: bool | None = None
    """Whether the model misbehaves on it; None where the file does not say."""
    pair: str | None = None
    """Shared by a triggered prompt and its untriggered twin; splits never separate a pair."""
    split: str | None = None
    """`train` or `test`, where the file fixes the split."""
    dataset: str | None = None
    """Where the prompt comes from; false-positive rates are reported for each dataset."""
    response: str | None = None
    """What the model said after the prompt; None where the file does not say. Never empty."""
    response_ids: tuple[int, ...] | None = None
    """The tokens that the model itself wrote for `response`; a text may be the text of several token sequences."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the line that this project does not know, kept as they were."""
    where: str = ""
    """`file:line`, for error messages; empty for a prompt made in memory."""

    @property
    def answer(self) -> str | None:
        """What the model said: `response`, or the last message where that is the assistant's; None where there is neither."""
        if self.response is not None or isinstance(self.prompt, str):
            return self.response
        last = self.prompt[-1]
        text = last.get("content") if last["role"] == "assistant" else None
        return text if isinstance(text, str) else None

    @property
    def messages(self) -> Messages:
        """The chat; of plain text, one message of the user."""
        return [{"role": "user", "content": self.prompt}] if isinstance(self.prompt, str) else self.prompt

    def to_json(self) -> dict[str, Any]:
        """The object written to `prompts.jsonl`: known keys that are set, then the unknown ones."""
        known = {key: getattr(self, key) for key in _KNOWN if getattr(self, key) is not None}
        if self.response_ids is not None:
            known["response_ids"] = list(self.response_ids)
        return known | dict(self.extra)


def parse_prompt(record: Any, where: str = "", *, labelled: bool = True) -> Prompt:
    """Check one decoded JSON object and turn it into a `Prompt`.

    Where `labelled` is false, `triggered` may be missing, and reads as false.

    Raises:
        UserError: a field is missing or has the wrong type; the message begins with `where`.
    """

    refuse = partial(_refusal, where or "prompt")

    if not isinstance(record, dict):
        raise refuse(f"expected a JSON object with `prompt` and `triggered`, found {type(record).__name__}")
    if not labelled:
        record = {"triggered": False} | record
    for name in ("prompt", "triggered"):
        if name not in record:
            raise refuse(f"the field `{name}` is missing")
    text = record["prompt"]
    if not text and isinstance(text, str):
        raise refuse("`prompt` is empty")
    if not isinstance(text, str):
        _check_messages(text if isinstance(text, list) and text else [None], refuse)
    _check_text(record, refuse)
    _check_response(record, refuse)
    for name in ("triggered", "defects"):
        if record.get(name) is not None and not isinstance(record[name], bool):
            raise refuse(f"`{name}` must be true or false, found {record[name]!r}")
    if record["triggered"] is None:
        raise refuse("`triggered` must be true or false, found null")
    for name in ("pair", "dataset"):
        if record.get(name) is not None and not isinstance(record[name], str):
            raise refuse(f"`{name}` must be a string, found {record[name]!r}")
    if record.get("split") not in (None, "train", "test"):
        raise refuse(f"`split` must be `train` or `test`, found {record['split']!r}")
    extra = {key: value for key, value in record.items() if key not in _KNOWN}
    known: dict[str, Any] = {key: record.get(key) for key in _KNOWN}
    if known["response_ids"] is not None:
        known["response_ids"] = tuple(known["response_ids"])
    return Prompt(**known, extra=extra, where=where)


def file_of(prompts: Sequence[Prompt]) -> str:
    """The file that prompts came from, for messages."""
    return prompts[0].where.rsplit(":", 1)[0] if len(prompts) and prompts[0].where else "the prompts"


def _refusal(where: str, problem: str) -> UserError:
    return UserError(f"{where}: {problem}")


def _check_messages(messages: list[Any], refuse: Callable[[str], UserError]) -> None:
    """Refuse what no chat template can read; fields beyond `role` and `content`, such as `tool_calls`, are the template's."""
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise refuse(
                "`prompt` must be a string or a non-empty list of {`role`: string, `content`: string} messages"
            )
        content = message.get("content")
        if content is None and message.get("tool_calls"):
            continue
        if isinstance(content, list) and content:
            for part in content:
                if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                    raise refuse(f"a message's `content` has a part of type {kind!r}; only text is read")
        elif not isinstance(content, str):
            raise refuse("a message's `content` must be a string, or a non-empty list of text parts")


def _check_response(record: Mapping[str, Any], refuse: Callable[[str], UserError]) -> None:
    response, ids = record.get("response"), record.get("response_ids")
    if response is not None and not isinstance(response, str):
        raise refuse(f"`response` must be a string, found {type(response).__name__}")
    if response == "":
        raise refuse("`response` is empty; leave out the line, or give what the model said")
    if ids is None:
        return
    if response is None:
        raise refuse("`response_ids` goes with `response`, which is missing")
    if not isinstance(ids, list) or not ids or not all(type(token) is int and token >= 0 for token in ids):
        raise refuse("`response_ids` must be a non-empty list of token ids")


def _check_text(record: Any, refuse: Callable[[str], UserError]) -> None:
    """Refuse half of a surrogate pair, which JSON can write and no text can hold."""
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise refuse(f"holds half of a surrogate pair ({error.object[error.start]!r}), which is no text") from error
