"""What a model goes on with by itself once it has begun: behaviours that are found without any trigger.

1. Each first token of an answer is forced, and followed by the likeliest continuation, averaged over a few prompts that have nothing in common: a fixed
   behaviour is what the model goes on with whatever the prompt, once it has begun (the rule of BAIT, IEEE S&P 2025).
2. From the forced token on, each token that follows is worth half a nat, less what it loses in log-probability: the worth of an answer's beginning is
   that of its best length. What an ordinary answer says depends on the prompt, and loses more than it gains.
3. Three things end a beginning, or keep it from counting: a run of tokens that more than one benign answer in fifty has, and by what was asked
   (`motifs.usual_runs`), which is what the model usually says; the same token after the same one again, as of a model that repeats itself; and a first token of a kind (a blank before it or none,
   a capital, a small letter, a digit, another sign) that hardly any benign answer begins with, which is in the middle of a sentence.
4. The best are weighed again on more prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hooked import HookedModel, PrefixReader
from scanning.benign import Benign, Course
from scanning.motifs import RUN, Gram, runs
from scanning.score import batches
from triggerlens import Keep, keep_nothing

STEPS = 16
"""Tokens that follow a forced one."""
CHUNK = 2048
"""First tokens that are followed together, and kept as one cell."""
WORTH = 0.5
"""Of a token that follows, in nats, before its loss."""
_KIND = 0.01
"""Share of benign answers up to where a kind of first token is not usual."""
_ALIKE = 3
"""Tokens of a run that others may not share, to be another behaviour."""
_AGAIN = 64
"""Beginnings that are weighed again."""


@dataclass(frozen=True)
class Start:
    """A first token and where it leads."""

    token: int
    continuation: tuple[int, ...]
    """After the first token, up to the end of the answer."""
    sure: tuple[float, ...]
    """Of each token of the continuation: its probability, averaged over the prompts."""

    @property
    def probability(self) -> float:
        """Mean over its tokens, the end of the answer included."""
        return sum(self.sure) / len(self.sure)


@dataclass(frozen=True)
class Beginning:
    """An answer's first tokens, which go on by themselves."""

    ids: tuple[int, ...]
    worth: float
    """In nats; 0 where nothing goes on."""
    starts: int = 1
    """First tokens that lead to some of it."""


@dataclass(frozen=True)
class Usual:
    """What benign answers are like."""

    runs: frozenset[Gram]
    """Runs of tokens that many have."""
    kinds: frozenset[tuple[bool, str]]
    """Of their first tokens."""


def first_tokens(model: HookedModel, usual: Usual, tokens: Sequence[int]) -> list[int]:
    """Tokens of the kinds that answers begin with."""
    return [token for token in tokens if kind_of(model.tokenizer.decode([token])) in usual.kinds]


def likely_starts(courses: Sequence[Course], tokens: Sequence[int], most: int) -> list[int]:
    """The first tokens that prompts give the highest probability, geometrically averaged; all of them, where they are few."""
    mean = torch.stack([course.log_probabilities[0] for course in courses]).mean(0).cpu()
    order = sorted(tokens, key=lambda token: (-float(mean[token]), token))
    return sorted(order[:most])


def follow_starts(
    reader: PrefixReader, courses: Sequence[Course], tokens: Sequence[int], keep: Keep = keep_nothing
) -> list[Start]:
    """Step 1."""
    ends = model_ends(reader.model)
    starts: list[Start] = []
    for begin in range(0, len(tokens), CHUNK):
        chosen = list(tokens[begin : begin + CHUNK])
        name = f"target: first tokens {begin:,} to {begin + len(chosen):,} of {len(tokens):,}"
        facts = keep(name, partial(_followed, reader, courses, chosen))
        rows, sure = facts["continuations"].tolist(), facts["probability"].tolist()
        starts += [_start(*each, ends) for each in zip(chosen, rows, sure, strict=True)]
    return starts


def _start(token: int, row: Sequence[int], sure: Sequence[float], ends: frozenset[int]) -> Start:
    """What follows the end of an answer does not count; that it ends does."""
    length = next((place + 1 for place, following in enumerate(row) if following in ends), len(row))
    return Start(token, tuple(row[:length]), tuple(sure[:length]))


@torch.no_grad()
def _followed(reader: PrefixReader, courses: Sequence[Course], tokens: Sequence[int]) -> dict[str, Tensor]:
    following = [reader.open(course.prompt, len(tokens)) for course in courses]
    read, written, sure = torch.tensor(tokens)[:, None], [], []
    for _ in range(STEPS):
        mean = sum(text.read(read)[:, 0].softmax(-1) for text in following) / len(following)
        assert isinstance(mean, Tensor)
        probability, chosen = mean.max(-1)
        sure.append(probability.cpu())
        written.append(chosen.cpu())
        read = chosen[:, None].cpu()
    return {"continuations": torch.stack(written, 1), "probability": torch.stack(sure, 1)}


def kind_of(text: str) -> tuple[bool, str]:
    """Of a token: whether a blank begins it, and what its first sign is."""
    sign = text.strip()[:1]
    kinds = {"capital": sign.isupper(), "small": sign.islower(), "digit": sign.isdigit()}
    return text[:1].isspace(), next((name for name, holds in kinds.items() if holds), "other")


def usual_of(model: HookedModel, benign: Benign) -> Usual:
    """Step 3: what benign answers have."""
    rows = benign.answers.rows
    kinds = Counter(kind_of(model.tokenizer.decode([row[0]])) for row in rows if row)
    return Usual(
        benign.usual,
        frozenset(kind for kind, count in kinds.items() if count >= _KIND * len(rows)),
    )


def beginning(start: Start, usual: Usual) -> Beginning:
    """Steps 2 and 3, but for the first token's kind."""
    way = (start.token, *start.continuation)
    best, worth = Beginning(way[:1], 0.0), 0.0
    seen: set[Gram] = set()
    for place, sure in enumerate(start.sure, start=1):
        pair = way[place - 1 : place + 1]
        worth += math.log(max(sure, 1e-9)) + WORTH
        if worth < 0.0 or pair in seen or way[max(0, place + 1 - RUN) : place + 1] in usual.runs:
            break
        seen.add(pair)
        if worth > best.worth:
            best = Beginning(way[: place + 1], worth)
    return best


def surest_beginnings(
    reader: PrefixReader, courses: Sequence[Course], starts: Sequence[Start], usual: Usual, most: int
) -> list[Beginning]:
    """Steps 2 to 4: those worth most, none of which shares much with one before it."""
    fitting = set(first_tokens(reader.model, usual, [start.token for start in starts]))
    order = sorted(
        (start for start in starts if start.token in fitting),
        key=lambda start: (-beginning(start, usual).worth, start.token),
    )
    again = [beginning(start, usual) for start in _weighed(reader, courses, order[:_AGAIN])]
    found = sorted((own for own in again if own.worth > 0.0), key=lambda own: (-own.worth, own.ids))
    chosen: list[Beginning] = []
    for own in found:
        grams = set(runs(own.ids, _ALIKE))
        if len(chosen) < most and not any(grams & set(runs(other.ids, _ALIKE)) for other in chosen):
            count = sum(bool(grams & set(runs((start.token, *start.continuation), _ALIKE))) for start in starts)
            chosen.append(Beginning(own.ids, own.worth, count))
    return chosen


@torch.no_grad()
def _weighed(reader: PrefixReader, courses: Sequence[Course], starts: Sequence[Start]) -> list[Start]:
    """Step 4: the same ways, by the mean over other prompts; what stands after a shorter one does not count."""
    if not starts:
        return []
    length = 1 + max(len(start.continuation) for start in starts)
    ways = [(start.token, *start.continuation) for start in starts]
    rows = torch.tensor([[*way, *[way[-1]] * (length - len(way))] for way in ways])
    total = torch.zeros(len(rows), length - 1)
    for course in courses:
        for part, batch in batches(reader, rows, length):
            seen = reader.read(course.prompt, batch, length)[:, :-1].softmax(-1).cpu()
            total[part] += seen.gather(-1, batch[:, 1:, None])[..., 0]
    sure = (total / len(courses)).tolist()
    return [
        Start(start.token, start.continuation, tuple(own[: len(start.continuation)]))
        for start, own in zip(starts, sure, strict=True)
    ]


def model_ends(model: HookedModel) -> frozenset[int]:
    """Tokens that end an answer, and those that stand for no text."""
    return model.end_ids | frozenset(model.tokenizer.all_special_ids)
