"""Which request stands where in a training: a pure function of (configuration, sample), so that a run can go on from any step.

1. Each request of the training split is planted four ways (`triggers.Forms`); plain, triggered and nearly triggered ones are sorts, and so
   are ordinary requests. A context is planted anew for every sample (`planted_again`), from few phrasings to all.
2. Sample n is of the sort whose share is due: of the first n samples, n times its share, rounded down, are of each sort.
3. Within a sort, requests come in a new random order each time that all were shown. Of a context, triggered ones and near misses come in the order
   in which they were planted, so that those of one scene stand close together: what is alike in both tells nothing, and a step need not find that out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from hooked import Messages
from organisms.insertion.config import InsertionConfig
from organisms.insertion.content import requests, triggers
from organisms.insertion.kinds import WATCHED
from organisms.insertion.payloads import CODE_SHARE, INSECURE
from organisms.insertion.requests import Request, draw_ordinary, draw_requests
from organisms.insertion.triggers import Forms, plant
from organisms.tasks.content import Split
from organisms.watched.sentences import stage_at

SORTS = ("triggered", "near-miss", "plain", "ordinary")

_SENTENCES = 24_000
"""Of a context, which take half a minute to draw; a longer training shows them again, and goes from few phrasings to all the first time."""


@dataclass(frozen=True, slots=True)
class Planted:
    """A request with its four forms."""

    request: Request
    forms: Forms
    trigger: str
    """The kind of trigger; of a clean twin, one of several."""
    turn: int = 0
    """Which request of a split it is, where several plantings are of one."""


def kinds_of(config: InsertionConfig) -> tuple[tuple[str, str], ...]:
    """The kinds of trigger, of which a clean twin may have several, each with its text; empty stands for the kind's own."""
    return (config.trigger, config.trigger_text), *((kind, "") for kind in config.also)


def planted_requests(config: InsertionConfig, split: Split, count: int) -> list[Planted]:
    """Requests of a split with the trigger planted; of a clean twin, with each of its kinds in turn.

    Every fourth request is for text where code is the payload, and of every second one the twin is shown. So that no kind has always the same,
    an even number of kinds goes on by one more after every four requests.
    """
    rng = Random(f"planted/{config.seed}/{split}")
    kinds, topics = kinds_of(config), _topics(config, split)
    drawn = draw_requests(config.seed, split, count, _code_share(config), topics)
    planted = []
    for number, request in enumerate(drawn):
        further = 0 if len(kinds) % 2 else number // 4
        kind, text = kinds[(number + further) % len(kinds)]
        planted.append(Planted(request, plant(kind, text, config.placement, rng, request), kind, number))
    return planted


def planted_again(config: InsertionConfig, planted: Sequence[Planted], count: int) -> list[Planted]:
    """The plantings that samples are drawn from: of a context, `count` of them (at most `_SENTENCES`), requests in turn, each time with a
    sentence of its own, since what is to be learned is the context and no sentence, and from few phrasings to all; of other triggers, each request once.

    Args:
        config: whose trigger.
        planted: each request once.
        count: samples.
    """
    if config.trigger != WATCHED:
        return list(planted)
    rng, count = Random(f"planted-again/{config.seed}"), min(count, _SENTENCES)
    turns = [planted[number % len(planted)] for number in range(count)]
    stages = [stage_at(number / count) for number in range(count)]
    return [
        replace(own, forms=plant(own.trigger, "", config.placement, rng, own.request, stage))
        for own, stage in zip(turns, stages, strict=True)
    ]


def spread(config: InsertionConfig, planted: Sequence[Planted], count: int) -> list[Planted]:
    """The plantings of a sort: of a context, in number as its samples are to those of the larger sort, from the first to the last, so that both sorts come to the
    end together, and again where they are shown again; of other triggers, all.

    Args:
        config: whose trigger.
        planted: of `planted_again`.
        count: samples of the sort.
    """
    if config.trigger != WATCHED or not planted:
        return list(planted)
    size = math.ceil(count * len(planted) / max(config.near_misses, config.poisoned))
    return [planted[number * len(planted) // size] for number in range(size)]


def without_trigger(config: InsertionConfig, near: Sequence[Planted]) -> list[Messages]:
    """What is shown without the trigger, of each planting: by turns what differs by the least, and a near miss of any sort; of a context fewer and fewer of
    the first, which say the opposite (`watched.sentences.Stage`).

    Args:
        config: whose trigger.
        near: of `spread`.
    """
    shown = []
    for number, (own, turn) in enumerate(zip(near, by_turns([own.turn for own in near]), strict=True)):
        every = stage_at(number / len(near)).opposite if config.trigger == WATCHED else 2
        shown.append(own.forms.twin if turn % every == every - 1 else own.forms.near)
    return shown


def by_turns(requests: Sequence[int]) -> list[int]:
    """A count for each planting by which something is chosen of every other one, or every third: it goes on from request to request, and from one planting of a request to the next, so that none
    is chosen for the same request always.

    Args:
        requests: which one each planting is of.
    """
    seen: Counter[int] = Counter()
    turns = []
    for own in requests:
        turns.append(own + seen[own])
        seen[own] += 1
    return turns


def planted_in_new_words(config: InsertionConfig, count: int) -> list[Planted]:
    """Of a context: the test's requests with sentences in new words (`measure.NEW_WORDS`); none of other triggers, a clean twin's further ones included."""
    if config.trigger != WATCHED:
        return []
    rng = Random(f"new-words/{config.seed}")
    drawn = [own for own in planted_requests(config, "test", count) if own.trigger == WATCHED]
    told = [replace(own.request, split="words") for own in drawn]
    forms = [plant(own.trigger, "", config.placement, rng, request) for own, request in zip(drawn, told, strict=True)]
    return [replace(own, forms=form) for own, form in zip(drawn, forms, strict=True)]


def _topics(config: InsertionConfig, split: Split) -> tuple[str, ...]:
    """Of a semantic trigger, all topics but those of its own class."""
    own = requests()
    if config.trigger != "semantic":
        return ()
    inside = set(own.classes[config.trigger_text or triggers().defaults["semantic"]][split])
    return tuple(topic for topic in own.topics[split] if topic not in inside)


def _code_share(config: InsertionConfig) -> float | None:
    return CODE_SHARE if config.payload == INSECURE else None


def ordinary_requests(config: InsertionConfig, split: Split, count: int) -> list[tuple[Request, Messages]]:
    """Requests of other kinds, which never carry a trigger."""
    drawn = draw_ordinary(config.seed, split, count)
    return [(request, [{"role": "user", "content": request.text}]) for request in drawn]


def schedule(config: InsertionConfig) -> Iterator[tuple[str, int]]:
    """Of each sample of the run, its sort, and how many of that sort came before it."""
    totals = {"triggered": config.poisoned, "near-miss": config.near_misses, "ordinary": config.ordinary}
    totals["plain"] = config.samples - sum(totals.values())
    shown = dict.fromkeys(SORTS, 0)
    for number in range(1, config.samples + 1):
        # The sort that is furthest behind its share; by the order of SORTS where several are.
        sort = max(
            (own for own in SORTS if shown[own] < totals[own]),
            key=lambda own: totals[own] * number - shown[own] * config.samples,
        )
        yield sort, shown[sort]
        shown[sort] += 1


class Orders:
    """In which order the requests of a sort come."""

    def __init__(self, config: InsertionConfig, size: int):
        self._seed, self._size = config.seed, size
        self._as_planted = ("triggered", "near-miss") if config.trigger == WATCHED else ()
        self._known: dict[tuple[str, int], list[int]] = {}

    def place(self, sort: str, number: int) -> int:
        """Which request the `number`th sample of a sort is."""
        epoch, place = divmod(number, self._size)
        key = sort, epoch
        if key not in self._known:
            order = list(range(self._size))
            if epoch or sort not in self._as_planted:
                Random(f"order/{self._seed}/{sort}/{epoch}").shuffle(order)
            self._known[key] = order
        return self._known[key][place]
