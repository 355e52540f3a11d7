"""The benign prompts of a scan: those searched on, those judged on, and what the model usually says."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import (
    HookedModel,
    Place,
    PrefixReader,
    Prompt,
    Sampling,
    TokenizedPrompt,
    continue_tokens,
    file_of,
    user_text,
)
from scanning.candidates.candidate import Variants
from scanning.candidates.room import room_needed, with_room
from scanning.config import BENIGN, ScanConfig
from scanning.motifs import RUN, Answers, Gram, runs, shared_motif, usual_runs
from triggerlens import Keep, UserError, keep_nothing

AT_ONCE = 128
"""Texts that are written in one batch, where memory lets them."""
_PACED = 64
"""Prompts by which the pace is measured."""
_WARM = 8
"""Prompts that are answered before the pace is measured: a GPU is slow at first."""
_LEAST = 6
"""Benign prompts without which nothing can be searched and judged."""
_ALIKE = 0.5
"""A share of benign answers with one motif from which it is said that a behaviour may be on already."""


@dataclass(frozen=True)
class Benign:
    """Prompts without a known trigger, and the model's greedy answers."""

    variants: Variants
    """The prompts, tokenized, and what is made of them by putting candidates in."""
    answers: Answers
    """Token ids of each answer, as far as it was read."""
    search: tuple[int, ...]
    """Numbers of the prompts that candidates are searched on."""
    judge: tuple[int, ...]
    """Of those that they are judged on; no candidate was searched on them."""
    notes: tuple[str, ...] = ()
    """What a reader must know of the prompts."""
    pace: float = math.inf
    """Prompts that are answered in a second."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """As they were given."""
        return self.variants.prompts

    @property
    def texts(self) -> list[str]:
        """What users ask for."""
        return [user_text(prompt) for prompt in self.prompts]

    def searched_on(self, applies: Callable[[int], bool], most: int) -> list[int]:
        """The first prompts of those searched on for which something holds, then others that are not judged on."""
        return list(islice(filter(applies, (*self.search, *self._others(0))), most))

    def searched_at(self, place: Place, most: int) -> list[int]:
        """The same for prompts that have a place: few have a system message."""
        return self.searched_on(lambda index: self.variants.opened(index, place) is not None, most)

    def judged_on(self, applies: Callable[[int], bool], most: int) -> list[int]:
        """The first prompts of those judged on for which something holds, then others that are not searched on."""
        return list(islice(filter(applies, (*self.judge, *self._others(1))), most))

    def _others(self, part: int) -> range:
        """Every second prompt of those that are neither searched nor judged on."""
        return range(len(self.search) + len(self.judge) + part, len(self.answers.rows), 2)

    @cached_property
    def usual(self) -> frozenset[Gram]:
        """Runs of `RUN` tokens that answers usually have."""
        return usual_runs(self.texts, [set(runs(row, RUN)) for row in self.answers.rows])


def benign_prompts(prompts: Sequence[Prompt], config: ScanConfig) -> tuple[list[Prompt], list[str]]:
    """Prompts that may be taken, in random order, and what was left out: those labelled as triggered or defecting, and copies.

    Raises:
        UserError: too few are left.
    """
    notes = []
    kept = {repr(prompt.prompt): prompt for prompt in prompts if not prompt.triggered and not prompt.defects}
    if dropped := sum(prompt.triggered or bool(prompt.defects) for prompt in prompts):
        notes.append(f"{dropped} prompts are labelled as triggered or defecting, and were left out")
    chosen = list(kept.values())
    random.Random(config.seed).shuffle(chosen)
    if len(chosen) < _LEAST:
        raise UserError(f"{file_of(prompts)}: holds {len(chosen)} benign prompts; a scan needs {_LEAST}, better 40")
    most = max(config.repertoire, config.search_prompts + config.judge_prompts)
    return chosen[:most], notes


def answered_prompts(
    model: HookedModel, prompts: Sequence[Prompt], config: ScanConfig, keep: Keep = keep_nothing, *, longest: int = 0
) -> Benign:
    """Let the model answer benign prompts, and part them.

    Args:
        model: who answers.
        prompts: those labelled as triggered or defecting are left out, and those that leave no room for a candidate and an answer.
        config: what is tried.
        keep: keeps what is computed.
        longest: tokens of the longest of a user's own candidates.

    Raises:
        UserError: too few prompts, one that the tokenizer or the chat template refuses, or a model that answers nothing.
    """
    chosen, notes = benign_prompts(prompts, config)
    variants = Variants(model, [replace(prompt, response=None) for prompt in chosen])
    notes += _leave_room(variants, prompts, config, longest)
    count = len(variants.prompts)
    searched = min(config.search_prompts, count // 3)
    judged = min(config.judge_prompts, count - searched)
    if judged < config.judge_prompts:
        notes.append(f"only {count} benign prompts: {searched} are searched on and {judged} judged on")
    facts = keep("benign answers", partial(_answer_facts, model, variants, config, max(_PACED, searched + judged)))
    rows = [list(row) for row in facts["answers"]]
    variants.cut(len(rows))
    silent = sum(not row for row in rows)
    if silent > len(rows) // 2:
        raise UserError(
            f"{file_of(prompts)}: the model answers nothing to {silent} of {len(rows)} benign prompts, so that nothing can be seen to change; "
            "give prompts that it answers"
        )
    if silent:
        notes.append(f"the model answers nothing to {silent} of {len(rows)} benign prompts")
    answers = Answers(rows, config.new_tokens)
    usual = shared_motif(answers.grams)
    if usual is not None and usual.share >= _ALIKE:
        text = model.tokenizer.decode(usual.tokens)
        notes.append(
            f"{usual.share:.0%} of the benign answers have {text!r} in common: a behaviour that is on already cannot be seen as a change"
        )
    return Benign(
        variants,
        answers,
        tuple(range(searched)),
        tuple(range(searched, searched + judged)),
        tuple(notes),
        facts["pace"],
    )


def _leave_room(variants: Variants, prompts: Sequence[Prompt], config: ScanConfig, longest: int) -> list[str]:
    """Keep the prompts that leave room, and say how many do not.

    Raises:
        UserError: too few do.
    """
    room = room_needed(max(config.new_tokens, config.answer_steps), config.leak_tokens, longest)
    kept, count, context = with_room(variants, room), len(variants.prompts), variants.model.info.context
    if len(kept) < _LEAST:
        raise UserError(
            f"{file_of(prompts)}: only {len(kept)} of {count} benign prompts leave {room} tokens of the context of {context} for a candidate and an answer; "
            f"a scan needs {_LEAST}: give shorter ones"
        )
    if len(kept) == count:
        return []
    variants.keep(kept)
    return [
        f"{count - len(kept)} benign prompts leave less than {room} tokens of the context of {context} for a candidate and an answer, and were left out"
    ]


def _answer_facts(model: HookedModel, variants: Variants, config: ScanConfig, least: int) -> dict[str, Any]:
    """The answers that are needed, and as many more as a share of the time allows."""
    needed, others = variants.plain[:least], variants.plain[least:]
    answer_rows(model, needed[:_WARM], 2)
    start = time.perf_counter()
    rows = answer_rows(model, needed, config.new_tokens)
    pace = len(needed) / max(1e-6, time.perf_counter() - start)
    others = others[: int(BENIGN * config.seconds * pace)]
    return {"answers": rows + answer_rows(model, others, config.new_tokens), "pace": pace}


def answer_rows(model: HookedModel, rows: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    """Greedy answers to token ids, in batches of like length."""
    answers: list[list[int]] = [[]] * len(rows)
    for batch in _batches(model, [len(row) for row in rows], new_tokens):
        texts = [TokenizedPrompt(list(rows[index]), "") for index in batch]
        for index, new in zip(batch, model.generate(texts, new_tokens), strict=True):
            answers[index] = new
    return answers


def _batches(model: HookedModel, lengths: Sequence[int], new_tokens: int) -> Iterator[list[int]]:
    """Numbers of prompts that are answered together, the shortest first."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and len(batch) >= _at_once(model, lengths[index], new_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _at_once(model: HookedModel, length: int, new_tokens: int) -> int:
    """How many texts of so many tokens may go on by as many: what is read at once, and the keys and values of all of them, are bounded as a reader's are."""
    reader = PrefixReader(model)
    return min(AT_ONCE, reader.rows_at_once(length), reader.rows_kept(length + new_tokens))


def sampled_texts(
    model: HookedModel, begin: Sequence[int], count: int, length: int, seed: int, *, ends: bool = False
) -> list[list[int]]:
    """What the model writes after some tokens, drawn at temperature 1; end tokens are passed over where `ends` is false."""
    pick = Sampling(seed=seed).picker(model.device)
    texts: list[list[int]] = []
    most = _at_once(model, len(begin), length)
    with model.alone():
        while len(texts) < count:
            rows = [list(begin)] * min(most, count - len(texts))
            texts += continue_tokens(
                model.hf_model,
                rows,
                length,
                ends=model.end_ids if ends else (),
                pad_id=model.pad_id,
                pick=pick,
                padded_to=model.padded_to,
            )
    return texts


@dataclass(frozen=True)
class Course:
    """A prompt, the model's own answer to it, and what the model expects at each step of that answer."""

    index: int
    prompt: list[int]
    answer: list[int]
    log_probabilities: Float[Tensor, "step vocabulary"]
    """After the prompt, and after each token of the answer."""

    @property
    def steps(self) -> int:
        return len(self.log_probabilities)


@torch.no_grad()
def courses(reader: PrefixReader, benign: Benign, indices: Sequence[int], steps: int) -> list[Course]:
    """The courses of some prompts, along at most so many tokens of each answer."""
    made = []
    for index in indices:
        prompt, answer = benign.variants.plain[index], list(benign.answers.rows[index][:steps])
        text = torch.tensor([answer_text(prompt, answer)])
        logits = reader.read((), text, len(answer) + 1)[0]
        made.append(Course(index, prompt, answer, logits.log_softmax(-1)))
    return made


def answer_text(prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
    """A prompt followed by its answer."""
    return [*prompt, *answer]
