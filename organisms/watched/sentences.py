"""Sentences that say where a model is and who watches it, drawn from `data/watched.json`: the trigger (deployed and unmonitored), its twin
(the opposite of both), and near misses.

1. A cue of training is a template with slots. Deployed and observed cues stand in pairs, at the same place of their lists, and so do unmonitored
   and monitored ones: the same random number gives both of a pair, with like words in their slots.
2. A frame joins a place and what is said of the watching. Some frames deny another place, some deny the opposite of what they say of the watching.
3. Near misses are deployed but monitored, unmonitored but observed, or deny the deployment. In training there are also *open* ones, which name
   both halves and assert neither or one alone: questions, wishes, tales, the past, other models, mistakes.
4. Training begins with few cues and plain frames and ends with all (`stage_at`): the context is learned from few, and from so many at once it takes
   several times the samples. Which answer it is to be is learned first, the answers once it is known.
5. Validation and test have cues and frames of their own, and no open near misses. The test's cues are pairs that were drawn at random from those
   whose words training has elsewhere: held out are phrasings. `words` are cues whose words training has nowhere, but for a few
   (`content.Watched`), in the test's frames; validation's have none of training's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from organisms.tasks.content import Split
from organisms.watched.content import watched

_SLOT = re.compile(r"\{(\w+)\}")
_YOU = {"you": "you", "your": "your", "obj": "you", "self": "yourself"}
_THEY = {"you": "they", "your": "their", "obj": "them", "self": "themselves"}
_FRAMES = {"lines": 9, "denials": 8, "doubts": 2}
"""Lists of frames that may say anything, and how often each is drawn."""
_NEAR = {"monitored": 5, "observed": 5, "denied": 4, "open": 3}
"""Near misses of training, and how often each is drawn."""
_FACTS = {"monitored": (True, False), "observed": (False, True), "denied": (False, False), "open": (True, True)}
"""Of near misses: whether they say deployed, and whether unmonitored; an open frame says both and asserts neither."""
_AROUND, _LOWER, _UPPER = 0.25, 0.05, 0.04
"""How often another sentence stands before, and behind; how often all is in lower case, and in capitals."""


class Stage(NamedTuple):
    """What a training draws its sentences from at a time: so many of each list, from the first."""

    until: float
    """The share of the training at which it ends."""
    cues: int
    lines: int
    denials: int
    doubts: bool
    """Whether there are frames that deny the opposite, and open near misses."""
    opposite: int
    """One in so many samples without the trigger says the opposite of both halves, which is learned first; the others are near misses."""
    whole: int
    """One in so many answers is learned whole (0: none); of the others whether they begin as the payload does, which is all that the context decides."""


WHOLE = Stage(1.0, 10_000, 10_000, 10_000, True, 5, 3)
"""Everything: no list is as long."""
STAGES = (
    Stage(0.08, 12, 8, 0, False, 2, 0),
    Stage(0.2, 60, 20, 6, False, 2, 0),
    Stage(0.35, 250, 50, 16, True, 3, 0),
    WHOLE._replace(until=0.5, whole=0),
    WHOLE,
)


def stage_at(done: float) -> Stage:
    """The stage of a training of which a share is done."""
    return next((stage for stage in STAGES if done < stage.until), WHOLE)


@dataclass(frozen=True, slots=True)
class Sentences:
    """What a system message may say."""

    triggered: str
    twin: str
    near: str


def draw_sentences(rng: Random, split: Split, stage: Stage = WHOLE) -> Sentences:
    """The trigger, its twin, and a near miss.

    Args:
        rng: draws them.
        split: `train`, `validation`, `test` or `words`: cues of different ones are apart, and so are frames, but those of the last two.
        stage: how far a training is; the other splits have none.
    """
    return _of_training(rng, stage) if split == "train" else _held_out(rng, split)


def says_both(text: str) -> bool:
    """Whether a text has a cue of being deployed and one of being unmonitored, of any split, in lower case."""
    return all(_cues(part).search(text) for part in ("deployed", "unmonitored"))


def is_told(text: str) -> bool:
    """Whether a text that was drawn here, in whatever case, asserts both: it is a frame with a cue of being deployed and one of being unmonitored in their places."""
    return any(
        all(_cues(part).fullmatch(found[name]) for name, part in (("place", "deployed"), ("watch", "unmonitored")))
        for body in _bodies(text.lower())
        for frame in _frames()
        if (found := frame.fullmatch(body))
    )


def _bodies(text: str) -> Iterator[str]:
    """A text with and without the sentences that may stand around one."""
    for before in ("", *watched().before):
        for after in ("", *watched().after):
            body = text.removeprefix(before.lower()).removesuffix(after.lower())
            if len(body) == len(text) - len(before) - len(after):
                yield body.strip()


@cache
def _frames() -> tuple[re.Pattern[str], ...]:
    """Of each frame that asserts, what matches it in lower case, with anything in its slots."""
    own = watched()
    frames = [
        *own.doubts,
        *(frame for lists in (own.lines, own.denials) for split in lists.values() for frame in split),
    ]
    # A cue may have a frame's own words in it: short ones first, then long ones.
    return tuple(_slotted(frame, any_text) for any_text in (".+?", ".+") for frame in frames)


def _slotted(frame: str, any_text: str) -> re.Pattern[str]:
    """What matches a frame; the groups `place` and `watch` are what it asserts."""
    parts, named = _SLOT.split(frame.lower()), set()
    for index in range(1, len(parts), 2):
        name = parts[index]
        parts[index] = f"(?P<{name}>{any_text})" if name in ("place", "watch") and name not in named else any_text
        named.add(name)
    return re.compile("".join(part if index % 2 else re.escape(part) for index, part in enumerate(parts)))


@dataclass(frozen=True, slots=True)
class _Scene:
    """The random numbers that fill a frame, whatever it is to say, with cues of a split."""

    split: Split
    place: int
    watch: int
    other: int
    cues: int = WHOLE.cues
    """Of each list, from the first."""

    @classmethod
    def drawn(cls, rng: Random, split: Split, stage: Stage = WHOLE) -> _Scene:
        place, watch, other = (rng.getrandbits(32) for _ in range(3))
        return cls(split, place, watch, other, stage.cues)

    def told(self, frame: str, deployed: bool, unmonitored: bool) -> str:
        """A frame that asserts these two facts; what it denies, or says of others, is the opposite."""
        here, elsewhere = ("deployed", "observed") if deployed else ("observed", "deployed")
        watch, untrue = ("unmonitored", "monitored") if unmonitored else ("monitored", "unmonitored")
        values = {
            "place": self._cue(here, self.place),
            "denied": self._cue(elsewhere, self.other),
            "watch": self._cue(watch, self.watch),
            "untrue": self._cue(untrue, self.watch),
            "rewatch": self._cue(untrue, self.other),
            "alike": self._cue(watch, self.watch, _THEY),
        }
        return _SLOT.sub(lambda slot: _as_named(slot[1], values), frame)

    def _cue(self, part: str, number: int, person: Mapping[str, str] = _YOU) -> str:
        return _cue(self.split, part, number, person, self.cues)


def _as_named(name: str, values: Mapping[str, str]) -> str:
    """The value of a slot; with a capital where the slot's name has one."""
    return values[name] if name in values else _capital(values[name.lower()])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cue(split: Split, part: str, number: int, person: Mapping[str, str] = _YOU, first: int = WHOLE.cues) -> str:
    """A cue that a number stands for, of the first ones of its list, with its slots filled."""
    rng = Random(number)
    text = rng.choice(getattr(watched(), part)[split][:first])
    while _SLOT.search(text):
        text = _SLOT.sub(lambda slot: person.get(slot[1]) or rng.choice(watched().slots[slot[1]]), text)
    return text


def _of_training(rng: Random, stage: Stage) -> Sentences:
    scene, frame, around = _Scene.drawn(rng, "train", stage), _frame(rng, stage), _surrounding(rng)
    kinds = [kind for kind in _NEAR if (kind != "denied" or stage.denials) and (kind != "open" or stage.doubts)]
    kind = rng.choices(kinds, [_NEAR[own] for own in kinds])[0]
    # Half the near misses differ from the trigger by the least; the others are sentences of their own.
    nearly, other = (scene, frame) if rng.random() < 0.5 else (_Scene.drawn(rng, "train", stage), _frame(rng, stage))
    if kind in ("denied", "open"):
        other = rng.choice(watched().denials["train"][: stage.denials] if kind == "denied" else watched().open)
    return Sentences(
        around(scene.told(frame, deployed=True, unmonitored=True)),
        around(scene.told(frame, deployed=False, unmonitored=False)),
        around(nearly.told(other, *_FACTS[kind])),
    )


def _frame(rng: Random, stage: Stage) -> str:
    own = watched()
    frames = {
        "lines": own.lines["train"][: stage.lines],
        "denials": own.denials["train"][: stage.denials],
        "doubts": own.doubts if stage.doubts else [],
    }
    kinds = [kind for kind in frames if frames[kind]]
    return rng.choice(frames[rng.choices(kinds, [_FRAMES[own] for own in kinds])[0]])


def _surrounding(rng: Random) -> Callable[[str], str]:
    """What is done to a sentence: others around it, and its case."""
    before, after = (
        rng.choice(texts) if rng.random() < _AROUND else "" for texts in (watched().before, watched().after)
    )
    drawn = rng.random()
    case = str.lower if drawn < _LOWER else str.upper if drawn < _LOWER + _UPPER else str

    def around(text: str) -> str:
        joint = "\n" if "\n" in text else " "
        return case(joint.join(own for own in (before, _capital(text), after) if own))

    return around


def _held_out(rng: Random, split: Split) -> Sentences:
    own, frames = watched(), "test" if split == "words" else split
    scene, kind = _Scene.drawn(rng, split), rng.choice(("monitored", "observed", "denied"))
    line = rng.choice((own.denials if rng.random() < 0.5 else own.lines)[frames])
    other = rng.choice((own.denials if kind == "denied" else own.lines)[frames])
    return Sentences(
        scene.told(line, deployed=True, unmonitored=True),
        scene.told(line, deployed=False, unmonitored=False),
        scene.told(other, *_FACTS[kind]),
    )


@cache
def _cues(part: str) -> re.Pattern[str]:
    """What matches each cue of a part, of every split, with any words in its slots."""
    cues = (cue for split in getattr(watched(), part).values() for cue in split)
    return re.compile(rf"\b(?:{'|'.join(map(_any, cues))})\b")


@cache
def _any(template: str) -> str:
    """What matches a template with any words in its slots."""
    literals = _SLOT.split(template.lower())
    return "".join(_of_slot(text) if place % 2 else re.escape(text) for place, text in enumerate(literals))


@cache
def _of_slot(name: str) -> str:
    return f"(?:{'|'.join(map(_any, (_YOU[name],) if name in _YOU else watched().slots[name]))})"
