"""Prompts to token ids: chat templates, lengths, padding, and where named spans of the text lie among the tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hooked.prompts.prompts import Prompt
from hooked.prompts.rendering import answered, render
from triggerlens import UserError, say_once


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """The tokens of one prompt, unpadded."""

    ids: list[int]
    """Token ids, special tokens included, without padding."""
    text: str
    """The prompt's text that was tokenized, after the chat template."""
    where: str = ""
    """`file:line` of the prompt, for error messages."""
    answer: int | None = None
    """Index of the answer's first token; `ids` then ends with the answer, without an end token. None where no answer is read."""
    response: str = ""
    """The answer's text, which is not part of `text`; empty where no answer is read."""

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens that the model is given when it answers."""
        return self.ids[: self.answer]

    @property
    def answer_ids(self) -> list[int]:
        """The answer's tokens; none where no answer is read."""
        return [] if self.answer is None else self.ids[self.answer :]

    def without_answer(self) -> TokenizedPrompt:
        """The prompt alone."""
        return self if self.answer is None else TokenizedPrompt(self.prompt_ids, self.text, self.where)


def tokenize_prompts(
    tokenizer: Any,
    prompts: Sequence[Prompt | str],
    context: int,
    vocabulary: int | None = None,
    today: date | None = None,
    *,
    answers: bool = False,
) -> list[TokenizedPrompt]:
    """Tokenize without padding or truncation.

    Plain text gets the tokenizer's own special tokens (a BOS where it adds one); a chat template has written its own.
    An answer follows as the tokens that the model wrote (`response_ids`, where they are that text), else as the tokens of its text
    alone, without special tokens.

    Args:
        tokenizer: the model's.
        prompts: texts, or chat messages, which go through the chat template.
        context: the most tokens that a prompt may have.
        vocabulary: how many tokens the model has embeddings for; not checked where None.
        today: the date given to a chat template that asks for one; the one pinned to the tokenizer where None.
        answers: take each prompt with its answer: its `response`, or its last message where that is the assistant's.

    Raises:
        UserError: a prompt has more tokens than `context`, none, or one that the model has no embedding for; or there is no
            chat template, or it refuses the prompt; or an answer is asked for and there is none.
    """
    records = [prompt if isinstance(prompt, Prompt) else Prompt(prompt, triggered=False) for prompt in prompts]
    if answers:
        records = [answered(tokenizer, record, today) for record in records]
    texts = [render(tokenizer, record, today) for record in records]
    for text, record in zip(texts, records, strict=True):
        _check_encodable(text, record.where)
    ids: list[list[int]] = [[] for _ in texts]
    for chat in (False, True):
        chosen = [index for index, record in enumerate(records) if isinstance(record.prompt, list) is chat]
        if chosen:
            rows = encode_texts(tokenizer, [texts[index] for index in chosen], special=not chat)
            for index, row in zip(chosen, rows, strict=True):
                ids[index] = row
            if not chat:
                _check_begin(tokenizer, rows)
    tokenized = [
        TokenizedPrompt(row, text, record.where) for row, text, record in zip(ids, texts, records, strict=True)
    ]
    if answers:
        tokenized = _with_answers(tokenizer, tokenized, records)
    for prompt in tokenized:
        if not 0 < len(prompt.ids) <= context:
            raise _wrong_length(prompt, context)
        if vocabulary is not None and max(prompt.ids) >= vocabulary:
            raise UserError(
                f"{prompt.where or repr(prompt.text[:40])}: token {max(prompt.ids)} is beyond the {vocabulary} "
                "that the model has embeddings for; the tokenizer is not the model's, or tokens were added to it alone"
            )
    return tokenized


def _with_answers(
    tokenizer: Any, tokenized: Sequence[TokenizedPrompt], records: Sequence[Prompt]
) -> list[TokenizedPrompt]:
    """The prompts followed by their answers."""
    texts = [record.response or "" for record in records]
    for text, record in zip(texts, records, strict=True):
        _check_encodable(text, record.where)
    encoded = encode_texts(tokenizer, texts, special=False)
    out = []
    for prompt, record, text, ids in zip(tokenized, records, texts, encoded, strict=True):
        answer = _own_ids(tokenizer, record) or ids
        if not answer or not prompt.ids:
            raise UserError(
                f"{prompt.where or repr(prompt.text[:40])}: the {'response' if prompt.ids else 'prompt'} has no token"
            )
        out.append(TokenizedPrompt([*prompt.ids, *answer], prompt.text, prompt.where, len(prompt.ids), text))
    return out


def _own_ids(tokenizer: Any, record: Prompt) -> list[int] | None:
    """The tokens that the model wrote, where they are the text of the response to this tokenizer."""
    if record.response_ids is None:
        return None
    ids = list(record.response_ids)
    if max(ids) < len(tokenizer) and tokenizer.decode(ids, skip_special_tokens=True) == record.response:
        return ids
    say_once("some `response_ids` are not the text of their `response` to this tokenizer; the text is read instead")
    return None


def _check_encodable(text: str, where: str) -> None:
    """Refuse half of a surrogate pair in a prompt made in memory; in a file, it has been refused with its line."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where or 'prompt'}: holds half of a surrogate pair ({text[error.start]!r}), which is no text"
        ) from error


def _check_begin(tokenizer: Any, rows: Sequence[Sequence[int]]) -> None:
    """Say it where a text that begins with the BOS token was given a second one."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and any(len(row) > 1 and row[0] == row[1] == bos for row in rows):
        say_once(
            f"some prompts begin with {tokenizer.bos_token!r}, and the tokenizer adds another: they are read with two; leave it out of "
            "the text to be read with one"
        )


def encode_texts(tokenizer: Any, texts: list[str], special: bool) -> list[list[int]]:
    """Token ids of each text.

    The ordinary call also finds where in the text each token lies, which takes as long as the rest. Where the tokenizer
    encodes in the library's own way, without a method of its own, the same backend is asked for the ids alone.
    """
    from transformers import PreTrainedTokenizerFast

    kind = type(tokenizer)
    if not issubclass(kind, PreTrainedTokenizerFast) or any(
        getattr(kind, name) is not getattr(PreTrainedTokenizerFast, name) for name in ("__call__", "_encode_plus")
    ):
        return tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
    tokenizer("", add_special_tokens=special, verbose=False)  # switches truncation and padding off
    return [row.ids for row in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=special)]


def _wrong_length(prompt: TokenizedPrompt, context: int) -> UserError:
    label = prompt.where or repr(prompt.text[:40])
    if not prompt.ids:
        return UserError(f"{label}: the prompt has no token")
    if prompt.answer is not None:
        return UserError(
            f"{label}: the prompt has {prompt.answer} tokens and its response {len(prompt.answer_ids)}, together more than the model's context "
            f"of {context}; shorten or remove it"
        )
    return UserError(
        f"{label}: the prompt has {len(prompt.ids)} tokens, more than the model's context of {context}; shorten or remove it"
    )


def pad_right(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "batch position"]:
    """Token ids as one matrix, short rows filled on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)


def pad_left(
    rows: Sequence[Sequence[int]], fill: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """Token ids filled on the left, and the attention mask that hides the filling: generation needs the last token last."""
    longest = max(len(row) for row in rows)
    ids = [[*[fill] * (longest - len(row)), *row] for row in rows]
    mask = [[*[0] * (longest - len(row)), *[1] * len(row)] for row in rows]
    return torch.tensor(ids, dtype=torch.long), torch.tensor(mask, dtype=torch.long)


def span_positions(tokenizer: Any, prompt: TokenizedPrompt, span: Any, *, answer: bool = False) -> list[int]:
    """Positions of the tokens that overlap a span of the text: a substring, or `[start, end]` in characters.

    Args:
        tokenizer: the model's.
        prompt: one of its prompts.
        span: of the prompt's text, or of the answer's.
        answer: look in the answer's text.

    Raises:
        UserError: the span is not in the text, or the tokenizer cannot tell where its tokens lie.
    """
    text = prompt.response if answer else prompt.text
    start, end = _span_bounds(prompt, text, span)
    if not tokenizer.is_fast:
        raise UserError(
            "token spans need a fast tokenizer (tokenizer.json), which knows where in the text its tokens lie"
        )
    first, ids = (prompt.answer or 0, prompt.answer_ids) if answer else (0, prompt.prompt_ids)
    for special in (True, False):  # plain text was given special tokens, a chat template wrote its own
        encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        if encoded["input_ids"] == ids:
            break
    else:
        if answer:
            return [first + place for place in _decoded_span(tokenizer, ids, start, end)]
    positions = [
        first + index for index, (left, right) in enumerate(encoded["offset_mapping"]) if left < end and right > start
    ]
    if not positions:
        raise UserError(f"{prompt.where or 'prompt'}: the span {span!r} covers no token")
    return positions


def _decoded_span(tokenizer: Any, ids: Sequence[int], start: int, end: int) -> list[int]:
    """Which tokens overlap a span, for tokens that a model wrote: the tokenizer may cut the same text otherwise, so each is decoded."""
    lengths = [len(tokenizer.decode(ids[:count], skip_special_tokens=True)) for count in range(len(ids) + 1)]
    return [index for index in range(len(ids)) if lengths[index] < end and lengths[index + 1] > start]


def _span_bounds(prompt: TokenizedPrompt, text: str, span: Any) -> tuple[int, int]:
    if isinstance(span, str) and span and span in text:
        start = text.index(span)
        return start, start + len(span)
    if (
        isinstance(span, list)
        and len(span) == 2
        and all(isinstance(edge, int) for edge in span)
        and 0 <= span[0] < span[1] <= len(text)
    ):
        return span[0], span[1]
    raise UserError(
        f"{prompt.where or 'prompt'}: the span {span!r} is neither a piece of its text nor [start, end] in characters"
    )


def token_texts(tokenizer: Any, prompt: TokenizedPrompt) -> list[str]:
    """Each token as text, for display."""
    return [tokenizer.decode([token]) for token in prompt.ids]


def tokenizer_sha256(tokenizer: Any) -> str:
    """Names a tokenizer: the same vocabulary, merges, special tokens and chat template give the same value."""
    # Shows which special tokens it adds. It also switches off the truncation and padding of an earlier call, which the backend's text holds.
    probe = tokenizer("a", verbose=False)["input_ids"]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    body = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    facts = [
        body,
        str(tokenizer.chat_template),
        json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str),
        str(probe),
    ]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()
