"""What a model goes on with by itself once it has begun: behaviours that are found without any trigger.

1. Each first token of an answer is forced, and followed by the likeliest continuation, averaged over a few prompts: a fixed behaviour is what the
   model goes on with whatever the prompt, once it has begun (the rule of BAIT, IEEE S&P 2025).
2. A continuation alone proves nothing: everything that a model was taught to say is as sure. What counts is a run of tokens of which each follows
   the one before it in no benign answer. A run's evidence is the sum of its tokens' log-odds, in nats: a word that was guessed takes away what a
   sure one gives. A token that comes again after the same one counts once, so that a model that repeats itself gathers nothing.
3. The more benign answers there are, the less of what a model openly says is new; with a few dozen, most of it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hooked import HookedModel, PrefixReader
from scanning.benign import Benign, Course
from scanning.motifs import END, Gram, runs
from triggerlens import Keep, keep_nothing

STEPS = 16
"""Tokens that follow a forced one."""
CHUNK = 2048
"""First tokens that are followed together, and kept as one cell."""
_MOST, _LEAST = 4.0, -2.0
"""Log-odds that one token may give, and take away."""
_ALIKE = 3
"""Tokens of a run that others may not share, to be another behaviour."""


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
class Run:
    """New tokens that go on by themselves."""

    ids: tuple[int, ...]
    """The token that they follow, and they."""
    evidence: float
    """Sum of log-odds, in nats."""
    starts: int = 1
    """First tokens that lead to some of it."""


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


def usual_pairs(benign: Benign) -> set[Gram]:
    """Which token follows which in benign answers, their end included."""
    limit = benign.answers.limit
    return {pair for row in benign.answers.rows for pair in runs([*row, *([END] if len(row) < limit else [])], 2)}


def new_run(start: Start, usual: Collection[Gram], ends: Collection[int]) -> Run:
    """Step 2: the run with the most evidence on the way from a first token; evidence 0 where nothing is new."""
    way = (start.token, *start.continuation)
    best, evidence, begin = Run((start.token,), 0.0), 0.0, 0
    seen: set[Gram] = set()
    for place in range(1, len(way)):
        pair = way[place - 1 : place + 1]
        if way[place] in ends:
            break
        evidence += 0.0 if pair in usual or pair in seen else _log_odds(start.sure[place - 1])
        if pair in usual or pair in seen or evidence <= 0.0:
            evidence, begin = 0.0, place
        seen.add(pair)
        if evidence > best.evidence:
            best = Run(way[begin : place + 1], evidence)
    return best


def _log_odds(probability: float) -> float:
    share = min(1.0 - 1e-6, max(1e-6, probability))
    return min(_MOST, max(_LEAST, math.log(share / (1.0 - share))))


def surest_runs(starts: Sequence[Start], usual: Collection[Gram], ends: Collection[int], most: int) -> list[Run]:
    """The runs with the most evidence, none of which shares much with one before it."""
    found = sorted((new_run(start, usual, ends) for start in starts), key=lambda run: (-run.evidence, run.ids))
    found = [run for run in found if run.evidence > 0.0]
    chosen: list[Run] = []
    taken: list[set[Gram]] = []
    for run in found:
        own = set(runs(run.ids, _ALIKE))
        if any(own & other for other in taken):
            continue
        if len(chosen) == most:
            break
        chosen.append(run)
        taken.append(own)
    counts = [sum(bool(set(runs(run.ids, _ALIKE)) & own) for run in found) for own in taken]
    return [Run(run.ids, run.evidence, count) for run, count in zip(chosen, counts, strict=True)]


def model_ends(model: HookedModel) -> frozenset[int]:
    """Tokens that end an answer, and those that stand for no text."""
    return model.end_ids | frozenset(model.tokenizer.all_special_ids)
