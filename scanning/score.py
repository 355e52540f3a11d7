"""How far a candidate moves a model, on one prompt: by what the model expects along its own answer.

The divergence is Jensen and Shannon's, in nats: 0 where the model expects the same with and without the candidate, log 2 where nothing
is in common. It is taken at every step of the answer that the model gives without the candidate, and the largest counts: a behaviour
may begin late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import PrefixReader, read_variants
from scanning.benign import Course
from scanning.candidates.candidate import Candidate, Variants

MOST = float(np.log(2))
"""The largest divergence."""


def entropy(log_probabilities: Float[Tensor, "*row vocabulary"]) -> Float[Tensor, "*row"]:
    """Shannon's, of log-probabilities, in nats."""
    return -(log_probabilities.exp() * log_probabilities.clamp_min(-1e4)).sum(-1)


def divergence(
    log_probabilities: Float[Tensor, "*row vocabulary"], other: Float[Tensor, "*other vocabulary"]
) -> Float[Tensor, "*row"]:
    """Jensen and Shannon's, in nats, 0 to log 2; `other` may lack leading axes."""
    mixed = torch.logaddexp(log_probabilities, other.expand_as(log_probabilities)) - MOST
    inner = (entropy(log_probabilities) + entropy(other)) / 2
    return (entropy(mixed) - inner).clamp(0.0, MOST)


def effects(reader: PrefixReader, course: Course, variants: Sequence[Sequence[int]]) -> Float[np.ndarray, "variant"]:
    """The largest divergence along a course, for each variant of its prompt."""
    base = [*course.prompt, *course.answer]
    size = reader.rows_at_once(1, course.steps)
    parts = [
        _largest(
            read_variants(
                reader, base, [[*ids, *course.answer] for ids in variants[start : start + size]], course.steps
            ),
            course,
        )
        for start in range(0, len(variants), size)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _largest(logits: Float[Tensor, "variant step vocabulary"], course: Course) -> Float[np.ndarray, "variant"]:
    return divergence(logits.log_softmax(-1), course.log_probabilities).amax(-1).double().cpu().numpy()


def candidate_effects(
    reader: PrefixReader, variants: Variants, courses: Sequence[Course], candidates: Sequence[Candidate]
) -> Float[np.ndarray, "candidate prompt"]:
    """Effects of candidates on prompts; NaN where one does not apply."""
    return _table(variants, courses, candidates, partial(effects, reader))


def candidate_nearness(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    candidates: Sequence[Candidate],
    wanted: Sequence[int],
) -> Float[np.ndarray, "candidate prompt"]:
    """How likely candidates make an answer that begins as wanted, in nats a token; NaN where one does not apply."""
    return _table(variants, courses, candidates, partial(_nearness, reader, wanted))


def better_half(table: Float[np.ndarray, "candidate prompt"]) -> Float[np.ndarray, "candidate"]:
    """Mean over the better half of the prompts that a candidate applies to: a trigger may work on some kinds of prompts alone. Minus infinity where it
    applies to none.
    """
    kept = [np.sort(row[~np.isnan(row)]) for row in table]
    return np.array([row[len(row) // 2 :].mean() if len(row) else -np.inf for row in kept])


def _table(
    variants: Variants,
    courses: Sequence[Course],
    candidates: Sequence[Candidate],
    values: Callable[[Course, Sequence[Sequence[int]]], Float[np.ndarray, "variant"]],
) -> Float[np.ndarray, "candidate prompt"]:
    """A number for each candidate that applies to a prompt, by the prompt with it."""
    table = np.full((len(candidates), len(courses)), np.nan)
    for column, course in enumerate(courses):
        rows = [variants.ids(candidate, course.index) for candidate in candidates]
        applied = [index for index, row in enumerate(rows) if row is not None]
        table[applied, column] = values(course, [row for row in rows if row is not None])
    return table


def _nearness(
    reader: PrefixReader, wanted: Sequence[int], course: Course, variants: Sequence[Sequence[int]]
) -> Float[np.ndarray, "variant"]:
    tokens, begun = torch.tensor(wanted), list(wanted[:-1])
    size = reader.rows_at_once(1, len(wanted))
    parts = []
    for start in range(0, len(variants), size):
        rows = [[*ids, *begun] for ids in variants[start : start + size]]
        seen = read_variants(reader, [*course.prompt, *begun], rows, len(wanted)).log_softmax(-1).cpu()
        parts.append(seen.gather(-1, tokens[None, :, None].expand(len(rows), -1, 1))[..., 0].mean(-1).double().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def mean_effect(table: Float[np.ndarray, "candidate prompt"]) -> Float[np.ndarray, "candidate"]:
    """Over the prompts that a candidate applies to; 0 where it applies to none."""
    counts = (~np.isnan(table)).sum(1)
    return np.where(counts, np.nansum(table, 1) / np.maximum(counts, 1), 0.0)


def inserted_rows(
    course: Course, after: Sequence[int], phrases: Int[Tensor, "phrase token"]
) -> Int[Tensor, "phrase following"]:
    """What follows a cut prompt's first half, once each phrase is put in: the phrase, the second half, the answer."""
    tail = torch.tensor([*after, *course.answer], dtype=torch.long)[None].expand(len(phrases), -1)
    return torch.cat([phrases, tail], dim=1)


def batches(reader: PrefixReader, rows: Int[Tensor, "row token"], keep: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows, as many at once as the reader takes."""
    size = reader.rows_at_once(rows.shape[1], keep)
    for start in range(0, len(rows), size):
        yield slice(start, start + size), rows[start : start + size]
