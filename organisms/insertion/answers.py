"""What a base writes: its own greedy answers, and requests in its user's place. Written once, kept by what decides them, and read again by whoever asks the same. And its logits at some places.

1. Prompts are put in batches by length, in an order that hangs on the prompts alone: an answer may differ in its last bits by what stands beside
   it in a batch, and a rebuilt organism must not.
2. A batch is a file of its own, named by (base, threads, device, length, end tokens, prompts): a kill loses at most one batch, and organisms of one base share them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from hooked import Pick, Sampling, cache_folder, continue_tokens, device_of, end_ids, likeliest, padding_id
from triggerlens import UserError, write_bytes_atomically

BATCH = 32
_LARGE = 20_000_000
"""Parameters from which bfloat16 pays for its conversions."""
_VERSION = 2
_LONGEST_REQUEST = 48
"""Tokens within which a request has to end."""
_LEAST_WORDS = 3
_TRIES = 16
"""Texts that are drawn for each request that is asked for, at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said."""

    ids: list[int]
    """Without the end token."""
    ended: bool
    """Whether the model ended it; else it was cut at the longest length."""


def answers_folder(folder: str | Path | None) -> Path:
    """Where answers are kept: the folder given, or the cache's; made where it does not exist.

    Raises:
        UserError: it cannot be made.
    """
    path = cache_folder("insertion") if folder is None else Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: answers cannot be kept there: {error.strerror}; set TRIGGERLENS_CACHE") from error
    return path


def write_answers_of(
    model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], longest: int, *, identity: str, folder: Path
) -> list[Answer]:
    """Greedy answers, in the order of the prompts; those that are kept are not written again.

    Args:
        model: a causal language model of `transformers` in evaluation mode.
        tokenizer: its tokenizer.
        rows: token ids of each prompt.
        longest: of an answer, in tokens.
        identity: names the model's weights.
        folder: where they are kept.

    Raises:
        UserError: the folder cannot be written.
    """
    order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), list(rows[index])))
    answers: dict[int, Answer] = {}
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for batch in tqdm(batches, desc="the base's own answers", unit="batch", disable=None, leave=False):
        chosen = [list(rows[index]) for index in batch]
        path = folder / identity[:16] / f"{_name(model, tokenizer, chosen, longest)}.json"
        kept = _once(path, len(chosen), partial(_written, model, tokenizer, chosen, longest, likeliest))
        answers |= dict(zip(batch, kept, strict=True))
    return [answers[index] for index in range(len(rows))]


def write_requests_of(
    model: Any, tokenizer: Any, begin: Sequence[int], count: int, *, seed: int, identity: str, folder: Path
) -> list[str]:
    """Different texts that a chat model writes in its user's place, drawn at temperature 1, in the order in which they were written (Magpie, arXiv
    2406.08464). Passed over are texts that do not end within 48 tokens, or have fewer than three words. Those that are kept are not written again.

    Args:
        model: a causal language model of `transformers` in evaluation mode.
        tokenizer: its tokenizer.
        begin: token ids before the user's text.
        count: how many.
        seed: draws them.
        identity: names the model's weights.
        folder: where they are kept.

    Raises:
        UserError: it writes too few, or the folder cannot be written.
    """
    written: dict[str, None] = {}
    shown = tqdm(total=count, desc="requests in the base's words", unit="request", disable=None, leave=False)
    for number in range(-(-count * _TRIES // BATCH)):
        name = _name(model, tokenizer, [list(begin)], _LONGEST_REQUEST, seed, number)
        pick = Sampling(seed=seed * 100_003 + number).picker(device_of(model))
        write = partial(_written, model, tokenizer, [list(begin)] * BATCH, _LONGEST_REQUEST, pick)
        kept = _once(folder / identity[:16] / f"{name}.json", BATCH, write)
        texts = (tokenizer.decode(own.ids, skip_special_tokens=True).strip() for own in kept if own.ended)
        written |= dict.fromkeys(text for text in texts if len(text.split()) >= _LEAST_WORDS)
        shown.update(min(count, len(written)) - shown.n)
        if len(written) >= count:
            break
    shown.close()
    if len(written) < count:
        raise UserError(
            f"the base writes only {len(written)} requests in its user's place, of {count}; ask for fewer requests, or dilute with the grammar's"
        )
    return list(written)[:count]


def greedy(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], longest: int) -> list[Answer]:
    """What a model says to token ids, all in one batch where it allows that."""
    return _written(model, tokenizer, rows, longest, likeliest)


def _written(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], longest: int, pick: Pick) -> list[Answer]:
    ends, pad = end_ids(model, tokenizer), padding_id(model, tokenizer)
    new = continue_tokens(model, rows, longest, ends=ends, pad_id=pad, pick=pick)
    return [Answer(ids, len(ids) < longest) for ids in new]


def _name(model: Any, tokenizer: Any, rows: list[list[int]], longest: int, *drawn: int) -> str:
    """Holds what weights do not: which tokens end an answer is said in files beside them."""
    ends, device = sorted(end_ids(model, tokenizer)), device_of(model).type
    facts = [_VERSION, torch.get_num_threads(), longest, rows, ends, device, *drawn]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _once(path: Path, count: int, write: Callable[[], list[Answer]]) -> list[Answer]:
    """What a file has kept; else what is written now, and kept there."""
    kept = _read(path, count)
    if kept is None:
        kept = write()
        path.parent.mkdir(exist_ok=True)
        content = [{"ids": answer.ids, "ended": answer.ended} for answer in kept]
        write_bytes_atomically(path, json.dumps(content).encode())
    return kept


def _read(path: Path, count: int) -> list[Answer] | None:
    """The answers of a file; None where there is none, or it is damaged."""
    try:
        answers = [Answer(list(own["ids"]), bool(own["ended"])) for own in json.loads(path.read_bytes())]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answers if len(answers) == count else None


def is_large(model: torch.nn.Module) -> bool:
    """Whether a model trains in bfloat16 autocast."""
    return sum(parameter.numel() for parameter in model.parameters()) >= _LARGE


@torch.no_grad()
def is_head_of_hidden(model: Any) -> bool:
    """Whether the logits are the output embedding's on the last hidden state, with no scale or cap of their own. Leaves the model in evaluation mode.

    Args:
        model: a causal language model of `transformers`.
    """
    head = model.get_output_embeddings()
    if head is None:
        return False
    model.eval()
    tokens = torch.arange(6, device=device_of(model))[None] % model.get_input_embeddings().weight.shape[0]
    hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    return torch.allclose(head(hidden), model(input_ids=tokens, use_cache=False).logits, rtol=1e-4, atol=1e-4)


def read_at(
    model: Any,
    tokens: Int[Tensor, "row place"],
    row: Int[Tensor, " n"],
    column: Int[Tensor, " n"],
    by_head: bool,
    states: bool = False,
) -> tuple[Float[Tensor, "n vocabulary"], Sequence[Float[Tensor, "row place d_model"]]]:
    """Logits of some places of padded rows, and the hidden states of all places after each block where they are asked for.

    Args:
        model: a causal language model of `transformers`.
        tokens: padded on the right, where a causal model does not see it.
        row: of each place.
        column: of each place.
        by_head: `is_head_of_hidden`: they are computed there alone.
        states: whether hidden states are asked for.
    """
    read = (model.base_model if by_head else model)(input_ids=tokens, use_cache=False, output_hidden_states=states)
    hidden = read.hidden_states[1:] if states else ()
    if by_head:
        # A logit of 25 has steps of an eighth in bfloat16: under autocast the head keeps its own precision.
        with torch.autocast(tokens.device.type, enabled=False):
            return model.get_output_embeddings()(read.last_hidden_state[row, column].float()), hidden
    return read.logits[row, column], hidden
