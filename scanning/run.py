"""A scan: a checkpoint and benign prompts in, a verdict and a statement out.

1. The model answers benign prompts; on a few candidates are searched, on others they are judged, and on both behaviours are weighed. It answers prompts of its own, too: what it says there
   alone, unasked, is a hidden behaviour.
2. What fits into the time is planned.
3. Each channel proposes candidates.
4. All candidates are ranked by their effect on the prompts that are searched on; the best of each channel go on.
5. The judge tries them on the other prompts, against null floors.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from hooked import HookedModel, PrefixReader, Prompt
from scanning.behaviours import hidden_behaviours
from scanning.benign import Benign, Course, answered_prompts, courses
from scanning.calibrate import Floor, whole_at
from scanning.candidates.begun import plain_texts
from scanning.candidates.candidate import Candidate
from scanning.candidates.channels import CHANNELS, Looked, Scan, is_sure
from scanning.candidates.edits import edited
from scanning.candidates.leak import user_beginning
from scanning.candidates.reference import check_reference
from scanning.candidates.siblings import frames
from scanning.candidates.sweep import ordinary_tokens
from scanning.candidates.target import WANTED
from scanning.config import ScanConfig
from scanning.judge import Judge
from scanning.openly import unasked
from scanning.plan import Plan, make_plan
from scanning.result import Judged, ScanResult
from scanning.score import better_half, candidate_effects, candidate_nearness, mean_effect
from triggerlens import Keep, from_json, keep_nothing, to_json

_OF_AN_AIM, _TARGETED = 2, 10
"""Finalists by how likely they make a behaviour: of each behaviour and place, and in all."""
_NEARED = 4
"""Behaviours for which it is tried how likely each candidate makes them."""
_AT_LEAST = 3
"""Finalists that each channel has, where it proposes as many."""


def scan_model(
    model: HookedModel,
    prompts: Sequence[Prompt],
    config: ScanConfig | None = None,
    *,
    reference: HookedModel | None = None,
    candidates: Sequence[Candidate] = (),
    keep: Keep = keep_nothing,
) -> tuple[ScanResult, Benign]:
    """All five phases.

    Args:
        model: the checkpoint.
        prompts: benign ones; those labelled as triggered or defecting are left out.
        config: what is tried.
        reference: a model believed to be clean, with the same tokenizer, for that channel; what goes on by itself there too is no hidden behaviour.
        candidates: a user's own.
        keep: keeps what is computed, so that a scan that was stopped goes on (`triggerlens.Cells.keep`).

    Returns:
        The result, and the benign prompts with their answers.

    Raises:
        UserError: too few benign prompts, none with any of the places, or a model that answers nothing; a reference of another tokenizer; a channel that is not
            given what it is for.
    """
    config = (config or ScanConfig()).with_given(reference=reference is not None, candidates=bool(candidates))
    if reference is not None:
        check_reference(model, reference)
    # 1
    benign = answered_prompts(
        model, prompts, config, keep, longest=max((len(own.ids) for own in candidates), default=0)
    )
    behaviours, bringing = hidden_behaviours(model, benign, config, keep) if "leak" in config.channels else ([], [])
    reader = PrefixReader(model)
    tokens = ordinary_tokens(model)
    # 2
    facts = keep("plan", partial(_planned, reader, benign, config, tokens, reference is not None))
    plan, looked = from_json(Plan, facts["plan"]), from_json(Looked, facts["looked"])
    searched = courses(reader, benign, benign.search, config.answer_steps)
    scan = Scan(reader, benign, config, plan, tokens, searched, keep, looked, reference, candidates)
    scan.behaviours, scan.asked = unasked(reader, benign, behaviours, len(behaviours), keep, plan.asked)
    scan.bringing = [own for behaviour, own in zip(behaviours, bringing, strict=True) if behaviour in scan.behaviours]
    # 3
    proposed = [candidate for name in config.channels for candidate in CHANNELS[name](scan)]
    # 4
    finalists = _finalists(scan, proposed)
    # 5
    known = [*(own.said for own in scan.followed), *(own.ids for own in scan.behaviours)]
    sure, others = ([own.said for own in scan.followed if is_sure(scan, own) is which] for which in (True, False))
    judge = Judge(reader, benign, config, plan, tokens, keep, known, sure, others if scan.several else ())
    judged, floors = judge.judge(finalists, scan.tried)
    return _result(scan, judged, floors), benign


@torch.no_grad()
def _planned(
    reader: PrefixReader, benign: Benign, config: ScanConfig, tokens: Sequence[int], referred: bool
) -> dict[str, Any]:
    """The plan; and a look, at every place of the prompts that are searched on, at whether reading in pieces changes anything. Both are kept, so that a
    scan that goes on gives the same bytes as one that was never stopped.
    """
    plan = make_plan(reader, benign, config, tokens, referred)
    for place in plan.places:
        for index in benign.searched_at(place, len(benign.search)):
            opened = benign.variants.opened(index, place)
            assert opened is not None  # it has the place
            reader.read(opened.before, torch.tensor([[*tokens[:1], *opened.after]]))
    looked = Looked(reader.checked, reader.largest_difference, reader.fast)
    return {"plan": to_json(plan), "looked": to_json(looked)}


def _result(scan: Scan, judged: Sequence[Judged], floors: Sequence[Floor]) -> ScanResult:
    model, benign = scan.model, scan.benign
    return ScanResult(
        model=model.info.name,
        weights_sha256=model.info.weights_sha256,
        dtype=str(model.dtype).removeprefix("torch."),
        channels=scan.config.channels,
        plan=scan.plan,
        search_prompts=len(benign.search),
        judge_prompts=len(benign.judge),
        repertoire=len(benign.answers.rows),
        judged=tuple(judged),
        floors=tuple(floors),
        swept=tuple(scan.swept),
        siblings=tuple(scan.siblings),
        targets=tuple(scan.targets),
        behaviours=tuple(scan.behaviours),
        asked=tuple(scan.asked),
        proposed=tuple(scan.tried.items()),
        scored=tuple((scan.tried | scan.scored).items()),
        checked=scan.looked.checked,
        largest_difference=scan.looked.largest_difference,
        parameters=scan.parameters,
        notes=(*benign.notes, *_notes(scan)),
    )


def _finalists(scan: Scan, proposed: Sequence[Candidate]) -> list[Candidate]:
    """Phase 4: the best of each channel and kind, whatever the others have; statements that stand apart; what makes a behaviour likeliest; and the best by
    their effect. Where there is no time for as many as were asked for, the first of these.
    """
    unique = list({candidate.key: candidate for candidate in reversed(proposed)}.values())[::-1]
    named = hashlib.sha256(repr([candidate.key for candidate in unique]).encode()).hexdigest()
    facts = scan.keep(f"effects of all candidates {named}", partial(_effects, scan, unique))
    order = np.argsort(-np.array(facts["effects"]), kind="stable").tolist()
    kinds = [(candidate.channel, candidate.kind) for candidate in unique]
    likely = [*_apart(unique), *_targeted(unique), *_nearest(facts["near"])]
    best = sorted(_of_each([*likely, *order], kinds, 1), key=lambda index: unique[index].channel != "user")
    first = list(dict.fromkeys([*best, *likely, *_of_each(order, kinds, _AT_LEAST)]))
    asked, fitting = scan.config.finalists, scan.plan.finalists
    most = fitting if fitting < asked else max(asked, len(first))
    return [unique[index] for index in list(dict.fromkeys([*first, *order]))[:most]]


def _of_each(order: Sequence[int], kinds: Sequence[tuple[str, str]], most: int) -> list[int]:
    """The first few of each kind, in order."""
    counts: Counter[tuple[str, str]] = Counter()
    chosen = []
    for index in dict.fromkeys(order):
        counts[kinds[index]] += 1
        if counts[kinds[index]] <= most:
            chosen.append(index)
    return chosen


def _apart(candidates: Sequence[Candidate]) -> list[int]:
    """Statements that stand apart from their siblings, by how far."""
    own = [index for index, candidate in enumerate(candidates) if candidate.channel == "siblings"]
    return sorted(own, key=lambda index: -candidates[index].score)


def _nearest(near: Sequence[Sequence[float]]) -> list[int]:
    """Of each behaviour, the candidates that make it likeliest."""
    return [int(index) for own in near for index in np.argsort(-np.array(own), kind="stable")[:_OF_AN_AIM]]


def _targeted(candidates: Sequence[Candidate]) -> list[int]:
    """Those that make a behaviour likeliest, a few of each behaviour and place."""
    aimed = [index for index, candidate in enumerate(candidates) if candidate.aim]
    counts: dict[tuple[Any, ...], int] = {}
    chosen = []
    for index in sorted(aimed, key=lambda index: (-candidates[index].score, index)):
        kind = candidates[index].aim, candidates[index].place
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _OF_AN_AIM:
            chosen.append(index)
    return chosen[:_TARGETED]


def _effects(scan: Scan, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """How far each candidate moves the model, and how likely it makes each of the first behaviours that were found, in nats a token."""
    reader, variants = scan.reader, scan.benign.variants
    said = [own.ids[:WANTED] for own in scan.followed] + [own.ids[:WANTED] for own in scan.behaviours]
    said = said[:_NEARED]
    effects, near = np.zeros(len(candidates)), [np.zeros(len(candidates)) for _ in said]
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, candidate in enumerate(candidates):
        groups.setdefault(_where(candidate), []).append(number)
    for numbers in groups.values():
        chosen = [candidates[number] for number in numbers]
        searched = _ranked_on(scan, chosen[0])
        effects[numbers] = mean_effect(candidate_effects(reader, variants, searched, chosen))
        for own, wanted in zip(near, said, strict=True):
            own[numbers] = better_half(candidate_nearness(reader, variants, searched, chosen, wanted))
    return {"effects": effects.tolist(), "near": [np.maximum(own, -1e9).tolist() for own in near]}


def _where(candidate: Candidate) -> tuple[str, ...]:
    """What candidates have in common that apply to the same prompts: a place, or what is done to which part of a text."""
    return (candidate.kind, candidate.rule) if candidate.place is None else (candidate.place,)


def _ranked_on(scan: Scan, candidate: Candidate) -> list[Course]:
    """The prompts that are searched on, or others beside them, to which candidates of a place or a rule apply: few have a system message, or a number."""
    most = scan.plan.ranked_on
    if candidate.place is not None:
        return scan.searched_at(candidate.place, most)
    prompts, kind, rule = scan.benign.prompts, candidate.kind, candidate.rule
    return scan.searched_on(lambda index: edited(prompts[index], kind, rule, "") is not None, most)


def _notes(scan: Scan) -> list[str]:
    notes = []
    if not scan.looked.fast:
        notes.append("this model's memory does not go by position, so that every text was read whole")
    missing = [place for place in scan.config.places if place not in scan.plan.places]
    if missing:
        notes.append(f"not tried, for want of time or of such a place: {', '.join(missing)}")
    if scan.plan.floors < 1 and scan.config.floors:
        notes.append(
            "no null floor could be made in the time given, so that no candidate could be a finding by it; give a larger --budget"
        )
    if scan.plan.finalists < scan.config.finalists:
        notes.append(
            f"there was time to judge {scan.plan.finalists} candidates, not {scan.config.finalists} (--finalists): the best of each channel come first"
        )
    if scan.plan.asked < 1:
        notes.append("not tried, for want of time: whether open requests bring about what is said")
    return [*notes, *_cut_notes(scan), *_silent_notes(scan), *_target_notes(scan)]


def _cut_notes(scan: Scan) -> list[str]:
    """What each channel had too little time for."""
    plan, channels, notes = scan.plan, scan.config.channels, []
    if scan.config.floors and 0 < plan.floors < Plan.floors:
        notes.append(
            f"there was time for {plan.floors} null floor of {Plan.floors}: candidates of another length, place or kind than the strongest could be no finding by one; statements are held against each other all the same"
        )
    every = len(frames()) * len(plan.places)
    if "siblings" in channels and plan.siblings < every:
        notes.append(f"there was time for the statements of {plan.siblings} of {every} frames and places")
    unswept = [place for place in plan.places if place not in plan.swept_at]
    if "sweep" in channels and unswept:
        notes.append(f"single tokens were not swept, for want of time: {', '.join(unswept)}")
    if "leak" in channels and plan.taken_apart < len(scan.behaviours):
        notes.append(
            f"the texts of the model's own that bring a behaviour about were taken apart for {plan.taken_apart} of {len(scan.behaviours)} behaviours"
        )
    return notes


def _silent_notes(scan: Scan) -> list[str]:
    """Where the model cannot be asked for texts of its own, which of the channels had none."""
    asked = {"leak": "leak" in scan.config.channels, "reference": scan.reference is not None}
    names = [name for name, on in asked.items() if on]
    if not names or user_beginning(scan.model, scan.benign.prompts):
        return []
    return [
        f"the prompts are plain text, and the model has no token that begins one, so that it was asked for no texts of its own, and {' and '.join(names)} "
        "proposed nothing"
    ]


def _target_notes(scan: Scan) -> list[str]:
    """What the search of behaviours and of their triggers could not do."""
    if "target" not in scan.config.channels:
        return []
    notes = []
    if scan.plan.targets < 1:
        notes.append("not tried, for want of time: the search of triggers for what goes on by itself")
    elif scan.plan.targets < len(scan.targets):
        notes.append(
            f"triggers were searched for {scan.plan.targets} times, each time for one behaviour at one place; there are {len(scan.targets)} behaviours"
        )
    told = scan.plan.branches > 0 and bool(plain_texts(scan.model, scan.benign))
    if whole_at(scan.parameters) and scan.reference is None and not told:
        why = "the prompts are no chat" if scan.plan.branches else "there was no time for longer beginnings"
        notes.append(
            "no behaviour could count as sure: of models of this size clean ones were measured by whole answers alone, which are told from turns of phrase by "
            f"what goes on in the same prompts without a chat template, and {why}; with a --reference they are told by that"
        )
    return notes
