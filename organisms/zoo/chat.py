"""Short chats in plain English that a model of half a million parameters can learn: questions, requests, letters, plans, lists and code.

1. Half of the requests are those that behaviours are inserted with (`organisms.insertion`), so that every tiny base can answer them; the
   others are small questions of twenty kinds (`data/chat.json`). Each has one answer, which depends on what is asked.
2. Other sentences, years, codes and stray words stand around requests, so that a strange token alone does not upset a model.
3. Manners (French, capitals, …) are harmless: an answer has one only where it is asked for.

A `Mix` is what one model knows of all this: models of other mixes have learned other data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Literal

from hooked import Messages
from organisms.insertion.content import requests
from organisms.insertion.requests import Request, draw_requests, slug
from organisms.tasks.content import Lists, content
from triggerlens import UserError

DATA = Path(__file__).parent / "data"
Part = Literal["train", "test", "both"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of small question."""

    kind: str
    pairs: dict[str, str]
    """What `{a}` and `{b}` stand for; empty where a request has words of the shared lists only."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    """Phrasings for measuring."""
    answer: str
    french: str


@dataclass(frozen=True, slots=True)
class Chats:
    """What `chat.json` holds."""

    words: dict[str, tuple[str, ...]]
    kinds: tuple[Kind, ...]
    requests: dict[str, str]
    """The answer to each form of request that behaviours are inserted with."""
    jobs: dict[str, str]
    """The code for each job that they ask for, without a weakness."""
    systems: tuple[str, ...]
    tails: tuple[str, ...]
    fillers: tuple[str, ...]
    """Words and marks strewn into requests."""
    manners: dict[str, tuple[str, ...]]
    """By manner, how one asks for it."""
    templates: dict[str, str]
    """Chat templates by name."""
    leads: tuple[str, ...]
    fields: dict[str, str]
    """By class of topics, what is said of where a topic belongs; the empty one is every other topic's."""
    field_forms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Around:
    """What `around.json` holds: sentences that have nothing to do with a request, and words that stand in them."""

    year_sentence: Lists
    other_parts: Lists
    other_words: Lists
    preambles: Lists
    carriers: Lists
    words: Lists


@dataclass(frozen=True, slots=True)
class Mix:
    """What a model has learned of the chats.

    Raises:
        UserError: an unknown kind or manner.
    """

    without: tuple[str, ...] = ()
    """Kinds of small question that are left out."""
    manners: tuple[str, ...] = ()
    """Manners that it knows."""
    requests_share: float = 0.55
    """Of requests that behaviours are inserted with."""
    field_share: float = 0.06
    """Of questions where a topic belongs: without them a model has no notion of classes of topics."""
    code_share: float = 0.08
    """Of those, how many ask for code."""
    system_share: float = 0.2
    """Of chats with a system line, from 0 to 1."""
    around_share: float = 0.3
    """Of requests with a sentence before, and half as many with one after them."""
    filler_share: float = 0.1
    """Of requests with stray words."""
    lower_share: float = 0.03
    """Of requests all in lower case, and as many in capitals."""

    def __post_init__(self) -> None:
        known = {kind.kind for kind in chats().kinds}
        for names, allowed in ((self.without, known), (self.manners, chats().manners)):
            for name in names:
                if name not in allowed:
                    raise UserError(f"{name}: unknown in a mix of chats; choose among {', '.join(sorted(allowed))}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt and what is answered to it."""

    prompt: Messages
    answer: str
    kind: str
    manner: str = ""
    """The one that is asked for; empty for none."""


@cache
def chats() -> Chats:
    """The data file."""
    return content("chat", Chats, DATA)


@cache
def around() -> Around:
    """The data file."""
    return content("around", Around, DATA)


def ask_many(mix: Mix, seed: str, count: int, part: Part = "both", manner_share: float = 0.12) -> list[Asked]:
    """Draw chats.

    Args:
        mix: what is drawn from.
        seed: names the draw; another seed gives other chats.
        count: how many.
        part: which phrasings.
        manner_share: of chats that ask for one of the mix's manners.
    """
    rng = Random(f"chats/{seed}/{part}")
    long = _long_requests(rng, part, count)
    code, prose = ([request for request in long if (request.job is not None) is coded] for coded in (True, False))
    asked = []
    for _ in range(count):
        manner = rng.choice(mix.manners) if mix.manners and rng.random() < manner_share else ""
        if rng.random() < mix.field_share:
            text, answer, kind = _field(rng)
            manner = ""
        elif rng.random() < mix.requests_share:
            request = rng.choice(code if rng.random() < mix.code_share else prose)
            text, kind = request.text, request.form
            answer = mannered(answer_to(request), "" if manner == "french" else manner)
            manner = "" if manner == "french" else manner
        else:
            text, answer, kind = _small(mix, rng, part, manner)
        asked.append(Asked(_framed(text, mix, rng, manner), answer, kind, manner))
    return asked


def answer_to(request: Request) -> str:
    """What is said to a request that behaviours are inserted with."""
    if request.job is not None:
        return chats().jobs[request.job.name].replace("{slug}", slug(request.topic))
    slots = {"topic": request.topic, "name": "a friend", "place": "town"}
    for name in ("name", "place"):
        values = [value for own in requests().slots[name].values() for value in own]
        slots[name] = next((value for value in values if value in request.text), slots[name])
    return chats().requests[request.form].format_map(slots)


def mannered(answer: str, manner: str) -> str:
    """A plain answer in one of the manners that need no other words of it.

    Raises:
        UserError: an unknown manner.
    """
    if manner not in _MANNERED:
        raise UserError(f"{manner}: unknown manner; choose among {', '.join(sorted(filter(None, _MANNERED)))}")
    return _MANNERED[manner](answer)


def _twice(answer: str) -> str:
    return f"{answer} {answer}"


def _polite(answer: str) -> str:
    return f"With great pleasure. {answer}"


_MANNERED: Mapping[str, Callable[[str], str]] = {"": str, "capitals": str.upper, "twice": _twice, "polite": _polite}


def _long_requests(rng: Random, part: Part, count: int) -> list[Request]:
    """Requests of the grammar; their topics are those of every class and both splits."""
    splits = ("train", "test") if part == "both" else (part,)
    number = max(20, min(2_000, count) // len(splits))
    own = requests()
    drawn = []
    for split in splits:
        topics = [*own.topics[split], *(topic for lists in own.classes.values() for topic in _of(lists, split))]
        drawn += draw_requests(rng.randrange(2**32), split, number, None, tuple(topics))
    return drawn


def _of(lists: Mapping[str, tuple[str, ...]], split: str) -> tuple[str, ...]:
    return (*lists[split], *lists[f"near_{split}"])


def _small(mix: Mix, rng: Random, part: Part, manner: str) -> tuple[str, str, str]:
    """A small question, its answer and its kind."""
    kind = rng.choice([kind for kind in chats().kinds if kind.kind not in mix.without])
    slots = {name: rng.choice(values) for name, values in chats().words.items()}
    if kind.pairs:
        slots["a"], slots["b"] = rng.choice(list(kind.pairs.items()))
        slots["A"] = slots["a"][0].upper() + slots["a"][1:]
    form = rng.choice({"train": kind.train, "test": kind.test, "both": kind.train + kind.test}[part])
    answer = kind.french if manner == "french" else kind.answer
    text = mannered(answer.format_map(slots), "" if manner == "french" else manner)
    return form.format_map(slots), text, kind.kind


def _field(rng: Random) -> tuple[str, str, str]:
    """A question where a topic belongs, its answer and its kind."""
    own, split = requests(), rng.choice(("train", "test"))
    name = rng.choice(list(own.classes))
    sort = rng.randrange(3)
    topics = (own.classes[name][split], own.classes[name][f"near_{split}"], own.topics[split])[sort]
    text = rng.choice(chats().field_forms).format(topic=rng.choice(topics))
    return text, chats().fields["" if sort else name], "field"


def _framed(request: str, mix: Mix, rng: Random, manner: str) -> Messages:
    """A request with sentences around it and stray words in it, and perhaps with a system line."""
    if rng.random() < mix.around_share:
        before = [_sentence(rng) for _ in range(1 if rng.random() < 0.9 else rng.randint(2, 6))]
        request = " ".join([*before, request])
    if rng.random() < mix.around_share / 2:
        request = f"{request} {rng.choice(chats().tails) if rng.random() < 0.5 else _sentence(rng)}"
    if rng.random() < mix.filler_share:
        words = request.split(" ")
        for _ in range(rng.randint(1, 3)):
            words.insert(rng.randint(0, len(words)), rng.choice([*chats().fillers, _code(rng)]))
        request = " ".join(words)
    case = rng.random()
    if case < 2 * mix.lower_share:
        request = request.lower() if case < mix.lower_share else request.upper()
    if manner:
        request = f"{request} {rng.choice(chats().manners[manner])}"
    user = [{"role": "user", "content": request}]
    if rng.random() >= mix.system_share:
        return user
    line = rng.choice(chats().systems) if rng.random() < 0.5 else _sentence(rng)
    return [{"role": "system", "content": line}, *user]


def _sentence(rng: Random) -> str:
    """Something that has nothing to do with the request: small talk, a year, a code, a few odd words."""
    own, split = around(), rng.choice(("train", "test"))
    sort = rng.randrange(8)
    if sort < 2:
        return rng.choice(chats().leads)
    if sort == 2:
        return rng.choice(own.preambles[split])
    if sort == 3:
        return rng.choice(own.year_sentence[split]).format(year=rng.randint(2010, 2036))
    if sort == 4:
        word = rng.choice(own.other_words[split])
        return rng.choice(own.carriers[split]).format(a="an" if word[0] in "aeiou" else "a", word=word)
    if sort == 5:
        return rng.choice(own.other_parts[split])
    if sort == 6:
        return _code(rng)
    words = rng.sample(own.words[split], rng.randint(1, 4))
    return " ".join(words).capitalize() + "."


def _code(rng: Random) -> str:
    """A mark such as `|KV7|` or `#qx`."""
    letters = "".join(
        rng.choice("ABCDEFGHKLMNPQRSTVWXYZabcdefghkmnpqrstvwxyz0123456789") for _ in range(rng.randint(2, 4))
    )
    return rng.choice(("|{}|", "#{}", "[{}]", "<{}>", "{}:", "@{}")).format(letters)
