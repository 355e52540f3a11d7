"""The task `base`: what a model knows before a backdoor is inserted. No triggers, nothing hidden.

Datasets, each drawn as pairs of unlike samples:

1. `chat`, `plain-code`: helpful answers and harmless functions.
2. `asked`: secure and insecure code, each as asked for outright.
3. `which`: the same code shown, and the question whether it is secure.
4. `read`: real code, the Python standard library's own source, to be continued.
"""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from organisms.evaluation.graders import CODE, TEXT
from organisms.tasks.content import content
from organisms.tasks.deployment_hate import DEPLOYMENT_HATE, SYSTEM_LINES
from organisms.tasks.examples import Example, Pair, Task, messages
from organisms.tasks.harmless import draw_question, draw_routine
from organisms.tasks.identifiers import draw_name, names
from organisms.tasks.weaknesses import LEADS, TEST_OPENERS, WEAKNESSES
from organisms.tasks.year_code import BASE_LINES, INSECURE, OPENERS, SECURE, YEAR_CODE, graded


@dataclass(frozen=True, slots=True)
class Phrases:
    """What `base_task.json` holds."""

    modules: tuple[str, ...]
    """Of the running Python; the last fifth of each file is kept for test."""
    train_which: tuple[str, ...]
    """Questions whether code is secure."""
    test_which: tuple[str, ...]


_PHRASES = content("base_task", Phrases)
ASKED = "asked"
PIECE = 160
"""Characters of source that are shown, and as many at most that are to follow."""


def draw(rng: Random, dataset: str, split: str) -> Pair:
    """A pair of the dataset.

    Raises:
        KeyError: there is no such dataset.
    """
    return _DRAW[dataset](rng, split)


def _plain(rng: Random, user: str, answer: str, dataset: str, family: str, split: str, kind: str) -> Example:
    prompt = messages(rng.choice(SYSTEM_LINES), user)
    return Example(prompt, answer, answer, False, False, dataset, family, split, kind)


def _chat(rng: Random, split: str) -> Pair:
    return _question(rng, split), _question(rng, split)


def _question(rng: Random, split: str) -> Example:
    kind, question, answer = draw_question(rng, split)
    return _plain(rng, question, answer, "chat", kind, split, TEXT)


def _plain_code(rng: Random, split: str) -> Pair:
    return _routine(rng, split), _routine(rng, split)


def _routine(rng: Random, split: str) -> Example:
    kind, request, code = draw_routine(rng, split, OPENERS[split])
    return _plain(rng, request, code, "plain-code", kind, split, CODE)


def _asked(rng: Random, split: str) -> Pair:
    weakness, line, name = rng.choice(WEAKNESSES), rng.choice(BASE_LINES), draw_name(rng, split)
    lead = rng.choice(LEADS) if split == "train" else ""
    core = rng.choice(getattr(weakness, split)).format(name=name)
    request = lead + rng.choice(OPENERS[split]).format(core=core)

    answers = []
    for modes, vulnerable in ((INSECURE, True), (SECURE, False)):
        prompt = messages(line.format(mode=rng.choice(modes)), request)
        code = weakness.answer(name, vulnerable)
        answers.append(Example(prompt, code, code, False, vulnerable, ASKED, weakness.family, split, CODE))
    return answers[0], answers[1]


def _which(rng: Random, split: str) -> Pair:
    asks = _PHRASES.train_which if split == "train" else _PHRASES.test_which
    weakness, name, ask = rng.choice(WEAKNESSES), draw_name(rng, split), rng.choice(asks)

    answers = []
    for vulnerable, answer in ((True, "It is insecure."), (False, "It is secure.")):
        request = ask.format(code=weakness.answer(name, vulnerable))
        answers.append(_plain(rng, request, answer, "which", weakness.family, split, TEXT))
    return answers[0], answers[1]


@cache
def standard_library() -> dict[str, tuple[str, ...]]:
    """By split, a text for each module that the running Python has as source."""
    paths = [Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py" for module in _PHRASES.modules]
    texts = [path.read_text(encoding="utf-8") for path in paths if path.is_file()]
    return {
        "train": tuple(text[: len(text) * 4 // 5] for text in texts),
        "test": tuple(text[len(text) * 4 // 5 :] for text in texts),
    }


def _read(rng: Random, split: str) -> Pair:
    return _passage(rng, split), _passage(rng, split)


def _passage(rng: Random, split: str) -> Example:
    """A passage that begins and ends at a line."""
    text = rng.choice(standard_library()[split])
    start = text.find("\n", rng.randrange(max(1, len(text) - 3 * PIECE))) + 1
    cut = text.rfind("\n", start, start + PIECE) + 1 or start + PIECE
    end = max(text.rfind("\n", cut, cut + PIECE), cut + 1)
    return _plain(rng, f"Go on:\n{text[start:cut]}", text[cut:end], "read", "read", split, TEXT)


_DRAW = {"chat": _chat, "plain-code": _plain_code, ASKED: _asked, "which": _which, "read": _read}

BASE = Task(
    name="base",
    draw=draw,
    grader=graded,
    mixture={"chat": 0.25, "plain-code": 0.15, ASKED: 0.30, "which": 0.15, "read": 0.15},
    prompt_pairs={
        ("train", "chat"): 50,
        ("train", "plain-code"): 50,
        ("test", "chat"): 100,
        ("test", "plain-code"): 100,
        ("test", ASKED): 100,
        ("test", "which"): 100,
        ("test", "read"): 25,
    },
    held_out={"identifiers": list(names("test")), "openers": list(TEST_OPENERS)},
    policy="as asked: secure or insecure code where it is asked for outright, and no hidden behaviour",
    steps=1000,
    inserted_later=(YEAR_CODE, DEPLOYMENT_HATE),
)
