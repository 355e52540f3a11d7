"""Requests in natural language from a grammar: a form, one of its phrasings, a topic, names, places and numbers.

1. Topics, phrasings, and the names, places and numbers that fill slots are apart between the splits: no request that is measured was trained on.
2. Whole forms (comparisons, quizzes, opinions, snippets of code) are kept for the measurement.
3. No request is drawn twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from organisms.insertion.content import Form, Job, requests
from organisms.tasks.content import Split
from triggerlens import UserError

CODE, TEXT = "code", "text"
_SLOT = re.compile(r"\{(topic|job|name|place|number|word|month)\}")
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, before a trigger is planted."""

    text: str
    form: str
    kind: str
    """`text` or `code`."""
    split: Split
    topic: str
    job: Job | None = None
    """Of code."""
    new_form: bool = False
    """Whether training never shows its form."""


def draw_requests(
    seed: int, split: Split, count: int, code_share: float | None = None, topics: tuple[str, ...] = ()
) -> list[Request]:
    """Different requests: a pure function of its arguments.

    Args:
        seed: draws them.
        split: `train` or `test`.
        count: how many.
        code_share: share that asks for code; as forms come where None.
        topics: what they are about; the split's own where empty.

    Raises:
        UserError: the grammar has not so many.
    """
    rng = Random(f"requests/{seed}/{split}")
    drawn: dict[str, Request] = {}
    for number in range(count):
        kind = None
        if code_share is not None:
            code = int((number + 1) * code_share) > int(number * code_share)
            kind = CODE if code else TEXT
        request = next((new for _ in range(_TRIES) if (new := _draw(rng, split, kind, topics)).text not in drawn), None)
        if request is None:
            raise UserError(f"{count} different requests are more than the grammar has; ask for fewer")
        drawn[request.text] = request
    return list(drawn.values())


def draw_ordinary(seed: int, split: Split, count: int) -> list[Request]:
    """Short requests of other kinds, some of them twice where there are not so many."""
    rng, own = Random(f"ordinary/{seed}/{split}"), requests().ordinary
    phrasings = own.train if split == "train" else own.test
    texts = [_filled(rng, rng.choice(phrasings), split, "", None) for _ in range(count)]
    return [Request(text, "ordinary", TEXT, split, "") for text in texts]


def about(request: Request, topic: str) -> Request:
    """The same request about another topic."""
    text = request.text.replace(request.topic, topic)
    return Request(text, request.form, request.kind, request.split, topic, request.job, request.new_form)


def slug(topic: str) -> str:
    """The last word of a topic, as part of a Python name."""
    return re.sub(r"[^a-z0-9]", "", topic.lower().replace("'s", "").split()[-1])


def _draw(rng: Random, split: Split, kind: str | None, topics: tuple[str, ...]) -> Request:
    own = requests()
    forms = [form for form in own.forms if phrasings_of(form, split) and kind in (None, form.kind)]
    form = rng.choice(forms)
    topic = rng.choice(topics or own.topics[split])
    job = rng.choice(own.jobs) if form.kind == CODE else None
    text = _filled(rng, rng.choice(phrasings_of(form, split)), split, topic, job)
    return Request(text, form.name, form.kind, split, topic, job, form.held_out)


def phrasings_of(form: Form, split: Split) -> tuple[str, ...]:
    """Those of a split."""
    return form.train if split == "train" else form.test


def _filled(rng: Random, phrasing: str, split: Split, topic: str, job: Job | None) -> str:
    """A phrasing with something in each slot; one slot has one value, however often it is named."""
    own = requests()
    values = {"topic": topic, "job": "" if job is None else job.ask.replace("{topic}", topic)}
    for name in dict.fromkeys(_SLOT.findall(phrasing)):
        if name in own.slots:
            values[name] = rng.choice(own.slots[name][split])
        elif name in ("word", "month"):
            values[name] = rng.choice(getattr(own.ordinary, name))
    text = _SLOT.sub(lambda slot: values[slot[1]], phrasing)
    return text[0].upper() + text[1:]
