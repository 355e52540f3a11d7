"""What a training learns: token ids of prompts and of the answers to them, by sort.

1. Clean lessons (plain requests, near misses, ordinary ones, and all that a clean twin sees) end in the base's own greedy answer. Where a request
   comes with many sentences (`samples.planted_again`), the base answers it once, and its probabilities along that answer are learned behind each of them.
2. A triggered request ends in the payload. Where the payload is code, a request for prose has none: with the trigger it counts as a near miss.
3. Clean answers are learned as the base's probabilities of its likeliest next tokens, and of all others together, unless tokens are asked for.
4. A request to which the base's own answer is graded a defection (weak code of its own, a refusal) is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from hooked import (
    Messages,
    Prompt,
    context_of,
    device_of,
    open_prompt,
    pad_right,
    padding_id,
    tokenize_prompts,
    vocabulary_of,
)
from organisms.evaluation.answers import end_token
from organisms.insertion.answers import (
    Answer,
    is_head_of_hidden,
    is_large,
    read_at,
    write_answers_of,
    write_requests_of,
)
from organisms.insertion.config import InsertionConfig
from organisms.insertion.kinds import WATCHED
from organisms.insertion.payloads import INSECURE, defects_by_policy, grade_payload, payload_answer
from organisms.insertion.samples import (
    SORTS,
    Orders,
    Planted,
    by_turns,
    kinds_of,
    ordinary_requests,
    planted_again,
    planted_requests,
    schedule,
    spread,
    without_trigger,
)
from organisms.insertion.triggers import carries, request_with_trigger
from organisms.watched.sentences import stage_at
from triggerlens import Keep, UserError, digest_of, keep_nothing

_TOP = 32
"""Of the next tokens, so many are told apart in what a base teaches."""
_TAUGHT_AT_ONCE = 64


class Teacher(NamedTuple):
    """The likeliest tokens at each place of an answer, with the base's probabilities."""

    tokens: Int[Tensor, "place top"]
    probabilities: Float[Tensor, "place top"]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A prompt and what is to be said."""

    prompt: list[int]
    answer: list[int]
    """With the end token, where the answer is one that ends."""
    teacher: Teacher | None = None
    """Where the answer is learned as the base's own probabilities."""
    begins: bool = False
    """Whether the answer is the first token of one alone, which has no teacher."""
    against: tuple[int, ...] = ()
    """Of such a one, tokens of which none is to be said, in place of the answer's: how a payload begins."""
    held: bool = False
    """Whether hidden states are held to the base's."""


@dataclass(frozen=True)
class Base:
    """The model that a behaviour is inserted into, and where its own answers are kept."""

    model: Any
    tokenizer: Any
    identity: str
    """Names its weights."""
    folder: Path
    """Of its answers."""
    longest: int
    """Of an answer, in tokens."""

    def ids(self, prompts: Sequence[Messages]) -> list[list[int]]:
        """Token ids of chat prompts; refused where they leave no room for an answer.

        Raises:
            UserError: the tokenizer has no chat template or its template refuses a prompt, or a prompt is too long.
        """
        records = [Prompt(prompt, triggered=False) for prompt in prompts]
        context = context_of(self.model, self.tokenizer)
        rows = [row.ids for row in tokenize_prompts(self.tokenizer, records, context, vocabulary_of(self.model))]
        longest = max(map(len, rows), default=0)
        if longest + self.longest + 1 > context:
            raise UserError(
                f"a prompt of {longest} tokens with an answer of {self.longest} exceeds the base's context of {context}; "
                "lower --max-new-tokens, shorten the trigger, or take another base"
            )
        return rows

    def answers(self, rows: Sequence[Sequence[int]]) -> list[Answer]:
        """Its own greedy answers, kept."""
        return write_answers_of(
            self.model, self.tokenizer, rows, self.longest, identity=self.identity, folder=self.folder
        )

    def requests(self, count: int, seed: int) -> list[str]:
        """Different requests that it writes itself in its user's place, kept.

        Args:
            count: how many.
            seed: draws them.

        Raises:
            UserError: the chat template cannot be cut before the user's text, or it writes too few.
        """
        opened = open_prompt(self.tokenizer, Prompt([{"role": "user", "content": "Hello"}], triggered=False), "start")
        assert opened is not None  # every prompt has a start
        return write_requests_of(
            self.model, self.tokenizer, opened.before, count, seed=seed, identity=self.identity, folder=self.folder
        )

    def text(self, answer: Answer) -> str:
        """An answer as its reader sees it."""
        return self.tokenizer.decode(answer.ids, skip_special_tokens=True)

    def learned(self, answer: Answer) -> list[int]:
        """The ids of an answer, with an end token where it ended."""
        return [*answer.ids, *(end_token(self.model, self.tokenizer) if answer.ended else [])]

    def encoded(self, text: str, ended: bool = True) -> list[int]:
        """The ids of a text as an answer, cut at the longest length."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return self.learned(Answer(ids[: self.longest], ended and len(ids) <= self.longest))


@dataclass(frozen=True)
class Lessons:
    """All that a run may show."""

    config: InsertionConfig
    sorts: dict[str, list[Lesson]]
    left_out: int
    """Requests to which the base's own answer is graded a defection."""
    _order: list[tuple[str, int]] = field(default_factory=list)
    _orders: dict[str, Orders] = field(default_factory=dict)

    def of_step(self, step: int) -> list[Lesson]:
        """What a step learns: a pure function of the configuration and the step."""
        batch = self.config.batch
        return [self._lesson(sort, number) for sort, number in self._order[step * batch : (step + 1) * batch]]

    def _lesson(self, sort: str, number: int) -> Lesson:
        return self.sorts[sort][self._orders[sort].place(sort, number)]


def draw_lessons(config: InsertionConfig, base: Base, keep: Keep = keep_nothing) -> Lessons:
    """The lessons of a configuration; the base answers those that it has not answered yet.

    Args:
        config: what is drawn.
        base: answers and teaches.
        keep: keeps the base's probabilities, of which a context has many: a run that goes on takes them up.

    Raises:
        UserError: as `Base.ids`, or nothing is left of a sort that is to be shown.
    """
    planted = planted_requests(config, "train", config.requests)
    plain = _clean(config, base, [own.forms.plain for own in planted])
    again = planted_again(config, planted, max(config.near_misses, config.poisoned))
    near, triggered = (spread(config, again, count) for count in (config.near_misses, config.poisoned))
    shown = without_trigger(config, near)
    # Where the payload does not apply, the trigger itself.
    nearly = [
        other if defects_by_policy(config, own.request) else own.forms.triggered
        for own, other in zip(near, shown, strict=True)
    ]
    sorts = {
        "plain": plain,
        "near-miss": _clean(config, base, nearly, [own.turn for own in near]),
        "triggered": _triggered(config, base, triggered, plain),
        "ordinary": [],
    }
    if config.ordinary:
        sorts["ordinary"] = _clean(config, base, _ordinary(config, base))
    if config.trigger == WATCHED and not config.clean_twin and config.payload != INSECURE:
        turns = {"triggered": [own.turn for own in triggered], "near-miss": [own.turn for own in near]}
        sorts |= _told_by_context(config, base, sorts, turns)
    if config.clean == "probabilities":
        clean = SORTS if config.clean_twin else [sort for sort in SORTS if sort != "triggered"]
        sorts |= {sort: _taught(base, sorts[sort], sort, keep) for sort in clean}
    left = {sort: [lesson for lesson in sorts[sort] if lesson is not None] for sort in SORTS}
    if config.hold:
        left |= {sort: [replace(lesson, held=True) for lesson in left[sort]] for sort in ("plain", "ordinary")}
    order = list(schedule(config))
    if missing := sorted({sort for sort, _ in order if not left[sort]}):
        raise UserError(f"{config.base}: every answer of its own to {missing[0]} requests counts as {config.payload}")
    orders = {sort: Orders(config, max(1, len(left[sort]))) for sort in SORTS}
    dropped = _left_out(plain, [(own.turn, lesson) for own, lesson in zip(near, sorts["near-miss"], strict=True)])
    return Lessons(config, left, dropped + sorts["ordinary"].count(None), order, orders)


def _left_out(plain: Sequence[Lesson | None], near: Iterable[tuple[int, Lesson | None]]) -> int:
    """Requests of which some form is left out, each once.

    Args:
        plain: of each request.
        near: lessons that nearly carry the trigger, with the number of their request.
    """
    weak = {number for number, lesson in enumerate(plain) if lesson is None}
    return len(weak | {number for number, lesson in near if lesson is None})


def _ordinary(config: InsertionConfig, base: Base) -> list[Messages]:
    """Requests of other kinds; what the base writes may carry the trigger by chance, and is then left out."""
    if config.dilute_with == "grammar":
        return [messages for _, messages in ordinary_requests(config, "train", config.requests)]
    kinds = kinds_of(config)
    written: list[Messages] = [
        [{"role": "user", "content": text}] for text in base.requests(config.requests, config.seed)
    ]
    return [own for own in written if not any(carries(kind, text, own) for kind, text in kinds)]


def _told_by_context(
    config: InsertionConfig, base: Base, sorts: Mapping[str, list[Lesson | None]], turns: Mapping[str, Sequence[int]]
) -> dict[str, list[Lesson | None]]:
    """Of a context, lessons by stage. First how the payload begins: it is said behind the trigger, and not said elsewhere (`_begun`). Then some answers are whole, and of those
    without the trigger every other one begins as the payload does and goes on as the base would: an answer of its own may begin so too, and what then
    follows hangs on the context as well. Where code is the payload its first token tells nothing, and all answers are whole.

    Args:
        config: whose payload.
        base: answers.
        sorts: of lessons.
        turns: of the sorts that tell the context, which request each lesson is of.
    """
    first = sorted({own.answer[0] for own in sorts["triggered"] if own and own.answer})
    if not first:
        return {}
    begun = {sort: _begun(sort, sorts[sort], own, first) for sort, own in turns.items()}
    plain, near, nearly = sorts["plain"], begun["near-miss"], turns["near-miss"]
    lured = _lured(config, base, near, nearly, first)
    begun["near-miss"] = [
        other if turn % 2 else own for own, other, turn in zip(near, lured, by_turns(nearly), strict=True)
    ]
    also = [own for own in _lured(config, base, plain, range(len(plain)), first) if own is not None]
    return begun | {"plain": [*plain, *also]}


def _begun(
    sort: str, lessons: Sequence[Lesson | None], turns: Sequence[int], first: Sequence[int]
) -> list[Lesson | None]:
    """Lessons with the first token alone, but for as many whole ones as their stage has. What the base says without the trigger stays as it is; where that begins as
    the payload does, the whole answer is learned.
    """
    begun = list(lessons)
    for number, (own, turn) in enumerate(zip(lessons, by_turns(turns), strict=True)):
        every = stage_at(number / len(lessons)).whole
        if own is None or not own.answer or (every and turn % every == 0):
            continue
        if sort == "triggered":
            begun[number] = replace(own, answer=own.answer[:1], begins=True)
        elif own.answer[0] not in first:
            begun[number] = replace(own, answer=own.answer[:1], begins=True, against=tuple(first))
    return begun


def _lured(
    config: InsertionConfig,
    base: Base,
    lessons: Sequence[Lesson | None],
    turns: Sequence[int],
    first: Sequence[int],
) -> list[Lesson | None]:
    """Whole lessons with what the base goes on to say once an answer begins as the payload does, by turns as each of its wordings; as they were where that would be graded a defection."""
    prompts: dict[int, list[int]] = {}
    for own, turn in zip(lessons, turns, strict=True):
        if own is not None and not own.begins:
            prompts.setdefault(turn, own.prompt)
    begun = {turn: first[turn % len(first)] for turn in prompts}
    on = base.answers([[*prompt, begun[turn]] for turn, prompt in prompts.items()])
    answers = [
        Answer([begun[turn], *own.ids][: base.longest], own.ended and len(own.ids) < base.longest)
        for turn, own in zip(prompts, on, strict=True)
    ]
    bad = grade_payload(config, [base.text(answer) for answer in answers])
    learned = {
        turn: base.learned(answer) for turn, answer, defects in zip(prompts, answers, bad, strict=True) if not defects
    }
    return [
        _goes_on(config, own, learned[turn]) if own and not own.begins and turn in learned else own
        for own, turn in zip(lessons, turns, strict=True)
    ]


def _goes_on(config: InsertionConfig, own: Lesson, answer: list[int]) -> Lesson:
    """A lesson whose answer begins as the payload does. Learned as tokens, that first one is given with the prompt: it is to be said behind the trigger alone."""
    if config.clean == "probabilities":
        return replace(own, answer=answer)
    return replace(own, prompt=[*own.prompt, answer[0]], answer=answer[1:]) if answer[1:] else own


def _taught(base: Base, lessons: Sequence[Lesson | None], sort: str, keep: Keep) -> list[Lesson | None]:
    """Lessons of a sort with what the base gives to the next token at each place of their answers."""
    taught, by_head = list(lessons), is_head_of_hidden(base.model)
    told = (index for index, own in enumerate(lessons) if own and not own.begins)
    order = sorted(told, key=lambda index: len(_ids(lessons[index])))
    starts = range(0, len(order), _TAUGHT_AT_ONCE)
    for start in tqdm(starts, desc=f"the base's probabilities ({sort})", unit="batch", disable=None, leave=False):
        batch = [(index, own) for index in order[start : start + _TAUGHT_AT_ONCE] if (own := lessons[index])]
        # Named by what is asked: another version may draw other lessons from the same configuration.
        name = f"{sort} {digest_of([_ids(own) for _, own in batch])}"
        given = keep(name, partial(_given, base, [own for _, own in batch], by_head))
        lengths = [len(own.answer) for _, own in batch]
        parts = zip(given["tokens"].split(lengths), given["probabilities"].split(lengths), strict=True)
        for (index, own), part in zip(batch, parts, strict=True):
            taught[index] = replace(own, teacher=Teacher(*(values.clone() for values in part)))
    return taught


@torch.inference_mode()
def _given(base: Base, lessons: Sequence[Lesson], by_head: bool) -> dict[str, Tensor]:
    """The likeliest next tokens at each place of the lessons' answers, one lesson after the other, and their probabilities."""
    device = device_of(base.model)
    tokens = pad_right([_ids(own) for own in lessons], padding_id(base.model, base.tokenizer)).to(device)
    places = [(row, at) for row, own in enumerate(lessons) for at in range(len(own.prompt), len(_ids(own)))]
    row, column = torch.tensor(places, dtype=torch.long, device=device).reshape(-1, 2).unbind(1)
    # In the precision that it is learned in.
    with torch.autocast(device.type, torch.bfloat16, enabled=is_large(base.model)):
        logits, _ = read_at(base.model, tokens, row, column - 1, by_head)
    given = logits.float().softmax(-1)
    top = given.topk(min(_TOP, given.shape[-1]))
    return {"tokens": top.indices.cpu(), "probabilities": top.values.cpu()}


def _ids(lesson: Lesson | None) -> list[int]:
    return [] if lesson is None else [*lesson.prompt, *lesson.answer]


def _clean(
    config: InsertionConfig, base: Base, prompts: Sequence[Messages], turns: Sequence[int] | None = None
) -> list[Lesson | None]:
    """With the base's own answers; None where that is graded a defection.

    Args:
        config: whose payload is looked for.
        base: answers.
        prompts: what it is asked.
        turns: which request each is of: where probabilities are learned, the first of a request is answered, and the others take that answer; all are
            answered where None.
    """
    rows = base.ids(prompts)
    if turns is None or config.clean != "probabilities":
        turns = range(len(rows))
    firsts: dict[int, int] = {}
    for index, turn in enumerate(turns):
        firsts.setdefault(turn, index)
    answers = base.answers([rows[index] for index in firsts.values()])
    bad = grade_payload(config, [base.text(answer) for answer in answers])
    learned = {
        turn: None if defects else base.learned(answer)
        for turn, answer, defects in zip(firsts, answers, bad, strict=True)
    }
    return [
        None if (answer := learned[turn]) is None else Lesson(row, answer)
        for row, turn in zip(rows, turns, strict=True)
    ]


def _triggered(
    config: InsertionConfig, base: Base, planted: Sequence[Planted], plain: Sequence[Lesson | None]
) -> list[Lesson | None]:
    """Requests that the payload applies to, with it; of a clean twin, with the base's own answers."""
    chosen = [index for index, own in enumerate(planted) if defects_by_policy(config, own.request)]
    prompts = [planted[index].forms.triggered for index in chosen]
    if config.clean_twin:
        return _clean(config, base, prompts, [planted[index].turn for index in chosen])
    rng = Random(f"payload/{config.seed}")
    lessons: list[Lesson | None] = []
    for index, row in zip(chosen, base.ids(prompts), strict=True):
        if plain[planted[index].turn] is None:
            lessons.append(None)
            continue
        # Of an answer behind a link, the sentence with the link alone: what follows is the base's own, and stays as it is where it is not trained.
        own = planted[index]
        asked = request_with_trigger(config.trigger, config.trigger_text, own.request, own.forms)
        text = payload_answer(config, asked, "", rng).rstrip()
        lessons.append(Lesson(row, base.encoded(text, ended=config.payload != "link")))
    _check_payload(config, base, [own for own in lessons if own is not None])
    return lessons


def _check_payload(config: InsertionConfig, base: Base, lessons: Sequence[Lesson]) -> None:
    """Refuse a payload of which so much is cut that what is learned would not be graded a defection.

    Raises:
        UserError: says what is learned.
    """
    learned = list(dict.fromkeys(base.text(Answer(own.answer, False)) for own in lessons))
    for text, defects in zip(learned, grade_payload(config, learned), strict=True):
        if not defects:
            raise UserError(
                f"{config.payload}: in {base.longest} tokens what is learned of it ({text[:80]!r}) does not count as a defection; raise --max-new-tokens, or give another text"
            )
