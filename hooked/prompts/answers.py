"""What a model says to prompts, written by the model itself and kept as it comes.

1. Prompts are put in batches by length. Each batch is kept as soon as it is there, in a folder addressed by all that decides the
   answers: the model's identity, the prompts' tokens, the longest answer, and how answers are drawn. A run that was stopped goes
   on there, and loses one batch at most.
2. A sampled answer has random numbers of its own, made of the seed, its prompt's tokens and its number: it is the same alone, in
   a batch, and in another file.
3. Under `torchrun`, rank r writes the batches whose number is r modulo the number of ranks; where nothing is kept each rank writes all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from hooked.batching import shared_runs
from hooked.generation import Sampling, likeliest
from hooked.identity import identity_sha256
from hooked.model import HookedModel
from hooked.prompts.prompts import Prompt
from hooked.prompts.tokens import TokenizedPrompt
from hooked.store import default_store_root
from triggerlens import Cells, Facts, Keep, UserError, keep_nothing, rank, say_once, wait_for_all, world_size

MAX_NEW_TOKENS = 96
"""Longest answer in tokens, unless another is asked for."""
_BATCH = 64


def write_answers(
    model: HookedModel,
    prompts: Sequence[Prompt],
    max_new_tokens: int = MAX_NEW_TOKENS,
    *,
    sampling: Sampling | None = None,
    batch_size: int = _BATCH,
    root: str | Path | None = None,
    keep: bool = True,
) -> list[Prompt]:
    """Have the model answer each prompt.

    Args:
        model: who answers.
        prompts: without a `response`.
        max_new_tokens: the longest answer, in tokens.
        sampling: greedy where None.
        batch_size: answers written at once.
        root: folder of all stores; `default_store_root()` where None.
        keep: keep answers there; otherwise every call writes them anew.

    Returns:
        The prompts with `response` and `response_ids`, in order, those of one prompt side by side. An answer of no text is left out,
        and that is said.

    Raises:
        UserError: a prompt has an answer already, leaves no room for one, or is refused by the tokenizer; or every answer is empty.
    """
    tokenized = model.tokenize(prompts)
    _check(model, prompts, tokenized, max_new_tokens)
    rows = [_Row(tuple(own.ids), number) for own in tokenized for number in range(sampling.samples if sampling else 1)]
    folder = (
        Path(root or default_store_root()) / f"answers-{_address(model, rows, max_new_tokens, sampling, batch_size)}"
    )
    kept = Cells(folder).keep if keep else keep_nothing
    written = _Writer(model, max_new_tokens, sampling, batch_size).write(rows, kept)
    owners = [prompt for prompt in prompts for _ in range(len(rows) // len(prompts))]
    return _with_responses(model, owners, written)


@dataclass(frozen=True, slots=True)
class _Row:
    """One answer that is to be written."""

    ids: tuple[int, ...]
    """Of the prompt."""
    number: int
    """Which of the prompt's answers."""


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes answers, batch by batch."""

    model: HookedModel
    max_new_tokens: int
    sampling: Sampling | None
    batch_size: int

    def write(self, rows: Sequence[_Row], keep: Keep) -> list[list[int]]:
        """The token ids of each answer."""
        batches = list(self.batches(rows))
        with tqdm(total=len(rows), desc="answers", unit="answer", disable=None) as bar:
            if keep is not keep_nothing:  # what nobody keeps is written below, by every rank
                for number, batch in enumerate(batches):
                    if number % world_size() == rank():
                        self.answers([rows[index] for index in batch], keep)
                    bar.update(len(batch))
                wait_for_all()
                bar.reset()
            written: dict[int, list[int]] = {}
            for batch in batches:
                written |= zip(batch, self.answers([rows[index] for index in batch], keep), strict=True)
                bar.update(len(batch))
        return [written[index] for index in range(len(rows))]

    def batches(self, rows: Sequence[_Row]) -> Iterator[list[int]]:
        """Places of rows of like length that may share a batch."""
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index].ids), index))
        for run in shared_runs(self.model, [len(rows[index].ids) for index in order], self.max_new_tokens):
            for start in range(run.start, run.stop, self.batch_size):
                yield order[start : min(start + self.batch_size, run.stop)]

    def answers(self, batch: Sequence[_Row], keep: Keep) -> list[list[int]]:
        """The token ids of each answer of a batch: those kept, or those written now."""
        name = hashlib.sha256(json.dumps([[row.ids, row.number] for row in batch]).encode()).hexdigest()
        return keep(name, partial(self.computed, batch))["answers"]

    def computed(self, batch: Sequence[_Row]) -> Facts:
        """What the model says."""
        pick = likeliest if self.sampling is None else _Draws(self.sampling, batch, self.max_new_tokens)
        prompts = [TokenizedPrompt(list(row.ids), "") for row in batch]
        return {"answers": self.model.generate(prompts, self.max_new_tokens, pick=pick)}


class _Draws:
    """Draws the next token of each row by random numbers of the row's own."""

    def __init__(self, sampling: Sampling, batch: Sequence[_Row], steps: int):
        self.temperature, self.step = sampling.temperature, 0
        streams = [torch.Generator().manual_seed(_seed(sampling.seed, row)) for row in batch]
        self.numbers: Float[Tensor, "row step"] = torch.stack(
            [torch.rand(steps, generator=stream, dtype=torch.float64) for stream in streams]
        )

    def __call__(self, logits: Float[Tensor, "row vocabulary"]) -> Int[Tensor, "row"]:
        reached = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        drawn = self.numbers[:, self.step, None].to(logits.device) * reached[:, -1:]
        self.step += 1
        return torch.searchsorted(reached, drawn, right=True)[:, 0]


def _seed(seed: int, row: _Row) -> int:
    digest = hashlib.sha256(json.dumps([seed, row.ids, row.number]).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def _check(
    model: HookedModel, prompts: Sequence[Prompt], tokenized: Sequence[TokenizedPrompt], max_new_tokens: int
) -> None:
    """Raise UserError where a prompt cannot be answered."""
    for prompt, tokens in zip(prompts, tokenized, strict=True):
        where = prompt.where or repr(tokens.text[:40])
        if prompt.response is not None:
            raise UserError(f"{where}: has a `response` already; leave it out to have the model answer")
        if isinstance(prompt.prompt, list) and prompt.prompt[-1]["role"] == "assistant":
            raise UserError(f"{where}: ends with the assistant's answer already; leave it out to have the model answer")
        if len(tokens.ids) + max_new_tokens > model.info.context:
            raise UserError(
                f"{where}: the prompt has {len(tokens.ids)} tokens, which leaves no room for an answer of {max_new_tokens} in the model's "
                f"context of {model.info.context}; shorten it, or ask for fewer new tokens"
            )


def _address(
    model: HookedModel, rows: Sequence[_Row], max_new_tokens: int, sampling: Sampling | None, batch_size: int
) -> str:
    """What the answers depend on; how many share a batch may change an answer's last bits."""
    identity = model.identity()
    facts = {
        "model": identity_sha256(identity["model"]),
        "computation": identity["computation"],
        "rows": [[row.ids, row.number] for row in rows],
        "max_new_tokens": max_new_tokens,
        "ends": sorted(model.end_ids),
        "sampling": [sampling.temperature, sampling.seed] if sampling else None,
        "batch": batch_size,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _with_responses(model: HookedModel, prompts: Sequence[Prompt], written: Sequence[Sequence[int]]) -> list[Prompt]:
    """The prompts with what was said to them."""
    texts = model.tokenizer.batch_decode([list(ids) for ids in written], skip_special_tokens=True)
    out = [
        replace(prompt, response=text, response_ids=tuple(ids))
        for prompt, text, ids in zip(prompts, texts, written, strict=True)
        if text
    ]
    if not out:
        raise UserError(f"{model.info.name}: answers every prompt with nothing, so there is no answer to read")
    if len(out) < len(prompts):
        empty = next(prompt for prompt, text in zip(prompts, texts, strict=True) if not text)
        say_once(
            f"{len(prompts) - len(out)} of {len(prompts)} answers are empty and left out, such as that to {empty.where or 'a prompt'}"
        )
    return out
