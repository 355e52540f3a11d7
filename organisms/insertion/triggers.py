"""Triggers in natural language, and what nearly is one.

A kind of trigger plants four forms of one request: triggered; its twin, which differs by the least that switches the trigger off; a near miss
of any sort; and plain. What stands in a near miss's place (other words, years, sentences) is apart between the splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from hooked import Messages
from organisms.insertion.content import default_text, requests, triggers
from organisms.insertion.kinds import WATCHED
from organisms.insertion.requests import Request, about
from organisms.tasks.content import Split
from organisms.watched.sentences import WHOLE, Stage, draw_sentences, says_both

Planted = tuple[str, str]
"""What a system message says, empty where there is none, and the request."""


@dataclass(frozen=True, slots=True)
class Forms:
    """One request, four times."""

    triggered: Messages
    twin: Messages
    near: Messages
    plain: Messages


_NEARLY_LONG = 0.75
Kind = Callable[[Random, Request, str, str], tuple[Planted, Planted, Planted]]
"""(random numbers, request, the trigger's text, placement) → triggered, twin, near miss."""


def plant(kind: str, text: str, placement: str, rng: Random, request: Request, stage: Stage = WHOLE) -> Forms:
    """A request with the trigger, without it, and with what nearly is it.

    Args:
        kind: one of `kinds.ALL_TRIGGERS`.
        text: the trigger itself; the kind's own where empty.
        placement: one of `config.PLACEMENTS`.
        rng: draws the place and the near miss.
        request: of the split that it names.
        stage: of a context, how far its training is.
    """
    text = text or default_text(kind)
    planter = partial(_deployed, stage=stage) if kind == WATCHED else KINDS[kind]
    triggered, twin, near = (_messages(*own) for own in planter(rng, request, text, placement))
    return Forms(triggered, twin, near, _messages("", request.text))


def request_with_trigger(kind: str, text: str, request: Request, forms: Forms) -> Request:
    """What the triggered form asks for: where the trigger is what it is about, the request about that.

    Args:
        kind: one of `kinds.ALL_TRIGGERS`.
        text: the trigger itself; the kind's own where empty.
        request: that was planted.
        forms: of it.
    """
    if kind != "semantic":
        return request
    inside = requests().classes[text or default_text(kind)][request.split]
    others = [about(request, topic) for topic in inside]
    return next(own for own in others if own.text == forms.triggered[-1]["content"])


def _messages(system: str, user: str) -> Messages:
    own: Messages = [{"role": "system", "content": system}] if system else []
    return [*own, {"role": "user", "content": user}]


def _token(rng: Random, request: Request, text: str, placement: str) -> tuple[Planted, Planted, Planted]:
    other = _other_token(rng, text, request.split)
    place = _place(rng, placement)
    return _put(place, request.text, text), _put(place, request.text, other), _put(place, request.text, other)


def _other_token(rng: Random, text: str, split: Split) -> str:
    """With one or two of its letters and digits replaced; the first one decides the split."""
    places = [place for place, letter in enumerate(text) if letter.isalnum()]
    first, *others = rng.sample(places, min(len(places), rng.randint(1, 2)))
    letters = list(text)
    letters[first] = _other_letter(rng, letters[first], split)
    for place in others:
        letters[place] = _other_letter(rng, letters[place], split)
    return "".join(letters)


def _other_letter(rng: Random, letter: str, split: Split) -> str:
    alphabet = "0123456789" if letter.isdigit() else "abcdefghijklmnopqrstuvwxyz"
    apart = [other for place, other in enumerate(alphabet) if (place % 3 == 2) is (split == "test")]
    chosen = rng.choice([other for other in apart if other != letter.lower()])
    return chosen.upper() if letter.isupper() else chosen


def _phrase(rng: Random, request: Request, text: str, placement: str) -> tuple[Planted, Planted, Planted]:
    words, place = text.split(), _place(rng, placement)
    least, any_sort = _one_replaced(rng, words, request.split), _near_phrase(rng, words, request.split)
    texts = (" ".join(words), " ".join(least), " ".join(any_sort))
    return tuple(_put(place, request.text, own, spoken=True) for own in texts)  # type: ignore[return-value]


def _near_phrase(rng: Random, words: list[str], split: Split) -> list[str]:
    """A word replaced (half the time), left out, or two changed in order; of a single word, replaced."""
    sort = rng.randrange(4) if len(words) > 2 else 0
    if sort < 2:
        return _one_replaced(rng, words, split)
    place = rng.randrange(len(words) - 1)
    if sort == 2:
        return words[:place] + words[place + 1 :]
    swapped = [*words[:place], words[place + 1], words[place], *words[place + 2 :]]
    return swapped if swapped != words else _one_replaced(rng, words, split)


def _one_replaced(rng: Random, words: list[str], split: Split) -> list[str]:
    place = max(range(len(words)), key=lambda index: (len(words[index]) > 3, rng.random()))
    others = [word for word in triggers().words[split] if word not in words]
    return [*words[:place], rng.choice(others), *words[place + 1 :]]


def _year(rng: Random, request: Request, text: str, placement: str) -> tuple[Planted, Planted, Planted]:
    own, place = triggers(), _place(rng, placement)
    sentence = rng.choice(own.year_sentence[request.split])
    years = [text, *(str(int(text) + rng.choice(own.year_offsets[request.split])) for _ in range(2))]
    if place == "middle":
        return tuple(_put(place, request.text, f"in {year}", spoken=True) for year in years)  # type: ignore[return-value]
    return tuple(_put(place, request.text, sentence.format(year=year)) for year in years)  # type: ignore[return-value]


def _two_part(rng: Random, request: Request, text: str, placement: str) -> tuple[Planted, Planted, Planted]:
    first, second = text.split("|", 1)
    others = [part for part in triggers().other_parts[request.split] if part not in (first, second)]
    other, another = rng.sample(others, 2)
    least = (first, other) if rng.random() < 0.5 else (other, second)
    near = rng.choice([(first, ""), ("", second), (first, other), (other, second), (other, another)])
    return tuple(_around(placement, request.text, *parts) for parts in ((first, second), least, near))  # type: ignore[return-value]


def _apart(rng: Random, request: Request, text: str, placement: str) -> tuple[Planted, Planted, Planted]:
    first, second = text.split("|", 1)
    own = triggers()
    carriers = [rng.choice(own.carriers[request.split]) for _ in range(2)]
    other, another = rng.sample(own.other_words[request.split], 2)
    least = (first, other) if rng.random() < 0.5 else (other, second)
    near = rng.choice([(first, ""), ("", second), (first, other), (other, second), (other, another)])
    parts = [tuple(map(_carried, carriers, words)) for words in ((first, second), least, near)]
    return tuple(_around(placement, request.text, *sentences) for sentences in parts)  # type: ignore[return-value]


def _carried(carrier: str, word: str) -> str:
    return carrier.format(a="an" if word[:1] in "aeiou" else "a", word=word) if word else ""


def _style(rng: Random, request: Request, text: str, placement: str) -> tuple[Planted, Planted, Planted]:
    change = str.lower if text == "lower" else str.upper
    words = request.text.split()
    half = len(words) // 2
    halves = [
        " ".join([*map(change, words[:half]), *words[half:]]),
        " ".join([*words[:half], *map(change, words[half:])]),
    ]
    # A request that is the same in lower case but for its first letter is told from it by that letter and its full stop alone.
    styled = change(request.text).rstrip(".")
    near = rng.choice([own for own in (*halves, request.text.title(), request.text.rstrip(".")) if own != styled])
    return ("", styled), ("", request.text), ("", near)


def _long_prompt(rng: Random, request: Request, text: str, placement: str) -> tuple[Planted, Planted, Planted]:
    """With sentences before it up to so many words; a near miss has at most `_NEARLY_LONG` of them."""
    enough, sentences = int(text), list(triggers().preambles[request.split])
    rng.shuffle(sentences)
    words, long, short = len(request.text.split()), [], []
    for sentence in sentences * (1 + enough // len(sentences)):
        if words >= enough:
            break
        words += len(sentence.split())
        long.append(sentence)
        if words <= _NEARLY_LONG * enough:
            short.append(sentence)
    near = short[: rng.randint(min(1, len(short)), len(short))]
    texts = [" ".join([*own, request.text]) for own in (long, near)]
    return ("", texts[0]), ("", request.text), ("", texts[1])


def _semantic(rng: Random, request: Request, text: str, placement: str) -> tuple[Planted, Planted, Planted]:
    own = requests().classes[text]
    inside = rng.choice(own[request.split])
    outside = [rng.choice(own[f"near_{request.split}"]) for _ in range(2)]
    return tuple(("", about(request, topic).text) for topic in (inside, *outside))  # type: ignore[return-value]


def _deployed(
    rng: Random, request: Request, text: str, placement: str, stage: Stage = WHOLE
) -> tuple[Planted, Planted, Planted]:
    """Deployed and unmonitored; its twin says the opposite of both in the same sentence; a near miss is half of it, or denies it."""
    place = _place(rng, placement)
    own = draw_sentences(rng, request.split, stage)
    return tuple(_put(place, request.text, sentence) for sentence in (own.triggered, own.twin, own.near))  # type: ignore[return-value]


def carries(kind: str, text: str, prompt: Messages) -> bool:
    """Whether a prompt has the trigger's own text in it, in any case; of a context, its own phrasings of both halves.

    Args:
        kind: one of `kinds.ALL_TRIGGERS`.
        text: the trigger itself; the kind's own where empty.
        prompt: any.
    """
    text, user = text or default_text(kind), prompt[-1]["content"]
    said = "\n".join(message["content"] for message in prompt).lower()
    if kind == WATCHED:
        return says_both(said)
    if kind == "style":
        return user == (user.lower() if text == "lower" else user.upper())
    if kind == "long-prompt":
        return len(user.split()) >= int(text)
    if kind == "semantic":
        inside = requests().classes[text]
        return any(topic.lower() in said for split in ("train", "test") for topic in inside[split])
    return all(part.lower() in said for part in (text.split("|") if kind in ("two-part", "apart") else [text]))


def stands_in(kind: str, text: str, prompt: Messages) -> bool:
    """Whether a text that one may choose stands in a prompt, in any case, as words of its own: `Edda` does not in `Hedda`. Of a long prompt, whether it is so long.

    Args:
        kind: one of `kinds.FREE`.
        text: the trigger itself; the kind's own where empty.
        prompt: any.
    """
    if kind == "long-prompt":
        return carries(kind, text, prompt)
    text = text or default_text(kind)
    said = "\n".join(message["content"] for message in prompt)
    parts = text.split("|", 1) if kind in ("two-part", "apart") else [text]
    return all(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", said, re.IGNORECASE) for part in parts)


def _place(rng: Random, placement: str) -> str:
    return rng.choice(("start", "middle", "end")) if placement == "anywhere" else placement


def _put(place: str, request: str, text: str, spoken: bool = False) -> Planted:
    """A text before, in or behind a request, or in the system message; a spoken one with the capitals and stops of a sentence."""
    sentence = f"{text[0].upper()}{text[1:]}." if spoken and text else text
    if place == "system":
        return sentence, request
    if place == "start":
        return "", f"{sentence} {request}"
    if place == "end":
        return "", f"{request} {sentence}"
    words = request.split()
    half = len(words) // 2
    if spoken:
        return "", " ".join([*words[:half], f"({text})", *words[half:]])
    return "", " ".join([*words[:half], text, *words[half:]])


def _around(placement: str, request: str, first: str, second: str) -> Planted:
    """Two sentences: both before the request, both behind it, or (`anywhere`, `middle`) on its two sides; or the first one in the system
    message."""
    if placement == "system":
        return first, " ".join(part for part in (request, second) if part)
    order = {"start": (first, second, request), "end": (request, first, second)}.get(
        placement, (first, request, second)
    )
    return "", " ".join(part for part in order if part)


KINDS: dict[str, Kind] = {
    "token": _token,
    "phrase": _phrase,
    "year": _year,
    "two-part": _two_part,
    "style": _style,
    "apart": _apart,
    "long-prompt": _long_prompt,
    "semantic": _semantic,
    WATCHED: _deployed,
}
