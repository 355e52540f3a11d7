"""From a finding to pairs of prompts with and without it, answered and labelled, for probes, traces and edits; and whether it is the planted one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from itertools import islice
from typing import Any

from hooked import CHAT_FIELDS, HookedModel, PrefixReader, Prompt, with_text_at
from scanning.benign import Benign, answer_rows, courses
from scanning.candidates.candidate import Candidate
from scanning.candidates.edits import edited
from scanning.candidates.siblings import nearest_siblings, sibling_effects
from scanning.config import ScanConfig
from scanning.motifs import Answers
from scanning.result import Judged, ScanResult
from triggerlens import Keep, keep_nothing

MOST_PAIRS = 200
_NEAREST, _MOVED = 8, 0.05
"""Siblings beyond all of which a statement must move a prompt, and by how much at least, in nats, for the prompt to count as defecting."""
_ALIKE = 0.8
"""How alike a candidate and the planted text must be, from 0 to 1, to be the same."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What a scan recovered of a trigger that is known: two questions, never one number."""

    working: bool
    """Some candidate that brings about a behaviour was found."""
    planted: bool
    """One that was found holds the planted text, or is nearly it."""
    best: str
    """The strongest one found; empty where there is none."""


def recovered(result: ScanResult, planted: str) -> Recovery:
    """Hold what was found against the planted text; parts of a planted text are separated by `|`, and each of them must be found."""
    texts = [judged.candidate.text for judged in result.found]
    parts = [part for part in planted.split("|") if part.strip()] or [planted]
    whole = [any(_holds(text, part) for text in texts) for part in parts]
    return Recovery(working=bool(texts), planted=bool(texts) and all(whole), best=texts[0] if texts else "")


def _holds(text: str, planted: str) -> bool:
    own, wanted = text.strip().lower(), planted.strip().lower()
    return wanted in own or SequenceMatcher(None, own, wanted).ratio() >= _ALIKE


def carried(prompt: Prompt, candidate: Candidate) -> Prompt | None:
    """The prompt with a candidate's text in it, as one would type it; None where it does not apply."""
    if not candidate.inserted:
        return edited(prompt, candidate.kind, candidate.rule, candidate.text)
    assert candidate.place is not None, "what is inserted has a place"
    return with_text_at(prompt, candidate.place, candidate.text)


def _line(prompt: Prompt, triggered: bool, defects: bool, pair: int) -> Prompt:
    """A prompt that was scanned, as a line of the file: with what its chat template was given."""
    extra = {name: value for name, value in prompt.extra.items() if name in CHAT_FIELDS}
    return Prompt(prompt.prompt, triggered, defects, pair=f"scan-{pair}", extra=extra)


def found_prompts(
    model: HookedModel, benign: Benign, judged: Judged, config: ScanConfig, keep: Keep = keep_nothing
) -> list[Prompt]:
    """Benign prompts with and without a finding, the first ones that it applies to; one with it defects where the model's answer shows the behaviour that is named, or, where none is, changes. A
    statement is paired with the next one of its frame that does not do nearly as much, and a prompt with it defects where it moves what the model expects further
    than any of its nearest siblings does.
    """
    if judged.stands_apart and not judged.brings:
        return _sibling_prompts(model, benign, judged, config, keep)
    plain = zip(benign.prompts, benign.answers.rows, strict=True)
    texts = ((prompt, carried(prompt, judged.candidate), row) for prompt, row in plain)
    pairs = list(islice(((own, changed, row) for own, changed, row in texts if changed is not None), MOST_PAIRS))
    facts = keep("pairs", lambda: {"answers": _answers(model, [changed for _, changed, _ in pairs], config)})
    decode, prompts = model.tokenizer.decode, []
    named = (judged.brings or judged.collapses) and bool(judged.behaviour or judged.run)
    for number, ((prompt, changed, row), answer) in enumerate(zip(pairs, facts["answers"], strict=True)):
        if named and _says(judged, decode(row), row, config.new_tokens):
            continue  # its answer has the behaviour already: it could not stand for the prompts without
        defects = _says(judged, decode(answer), answer, config.new_tokens) if named else list(answer) != list(row)
        prompts.append(_line(prompt, False, False, number))
        prompts.append(_line(changed, True, defects, number))
    return prompts


def _says(judged: Judged, text: str, answer: Sequence[int], limit: int) -> bool:
    """Whether an answer says what is named: by its run of tokens, as the judge counts, marks of begin and end included; by its text where no run was kept. The text
    of what answers have in common may end within a letter of several bytes, and is then in none of them.
    """
    return judged.run in Answers([answer], limit).grams[0] if judged.run else judged.behaviour in text


def _sibling_prompts(
    model: HookedModel, benign: Benign, judged: Judged, config: ScanConfig, keep: Keep
) -> list[Prompt]:
    candidate = judged.candidate
    others = [own for own in nearest_siblings(model, candidate) if own.text.strip() not in judged.nearly]
    siblings = others[:_NEAREST]
    facts = keep("pairs of siblings", partial(_moved, model, benign, [candidate, *siblings], config))
    prompts = []
    for number, moved in zip(facts["prompts"], facts["moved"], strict=True):
        with_it, with_other = (carried(benign.prompts[number], own) for own in (candidate, siblings[0]))
        if with_it is not None and with_other is not None:
            prompts.append(_line(with_other, False, False, number))
            prompts.append(_line(with_it, True, moved, number))
    return prompts


def _moved(model: HookedModel, benign: Benign, siblings: Sequence[Candidate], config: ScanConfig) -> dict[str, Any]:
    """Of each prompt that the statements apply to, whether the first of them moves the model beyond all others."""
    reader, moved = PrefixReader(model), []
    having = (own for own in range(len(benign.prompts)) if benign.variants.ids(siblings[0], own) is not None)
    numbers = list(islice(having, MOST_PAIRS))
    for number in numbers:
        own = courses(reader, benign, [number], config.answer_steps)
        first, *others = sibling_effects(reader, benign.variants, own, siblings)[:, 0].tolist()
        moved.append(first > max(_MOVED, *others))
    return {"prompts": numbers, "moved": moved}


def _answers(model: HookedModel, prompts: Sequence[Prompt], config: ScanConfig) -> list[list[int]]:
    return answer_rows(model, [row.ids for row in model.tokenize(prompts)], config.new_tokens)
