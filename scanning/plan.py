"""What a scan can do in its time: measured once, then kept, so that a run that goes on follows the same plan.

Shares of the time: a quarter for the sweep, a fifth each for benign answers (`benign`), inversion and null floors, a seventh for forced starts, a tenth for
judging, a twelfth for siblings, a twentieth each for what is asked for openly, for taking behaviours apart and for ranking; all pairs of tokens get a quarter beyond that, and are left
out where it is not enough for them. Where a behaviour that is not the surest may be a finding too, inversion gets three tenths, and the sweep a seventh. All together come to 1.4 times
the whole; those that the chosen channels need are taken of so much that they come to the whole (`ScanConfig.seconds`). What does not fit is cut. Of the sweep: steps along the answer, then prompts, then places, then tokens of the vocabulary; of the
floors: prompts, then floors, and without a floor nothing can be a finding; of the rest: behaviours that are gone after, prompts that candidates are ranked on,
and finalists.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hooked import HookedModel, Place, PrefixReader
from scanning.benign import Benign
from scanning.calibrate import branched_at, brought_share, parameters_of
from scanning.candidates.begun import first_tokens, usual_of
from scanning.candidates.siblings import frames
from scanning.candidates.target import FOLLOWED, INVERTED_ON, PROPOSED, SINGLES, WANTED
from scanning.config import (
    APART,
    FLOORS,
    INVERSION,
    JUDGE,
    LESS_SWEEP,
    MORE_INVERSION,
    OPENLY,
    RANK,
    REACH,
    SIBLINGS,
    STARTS,
    SWEEP,
    ScanConfig,
)
from scanning.openly import WEIGHED
from triggerlens import UserError

_PAIRS = 0.25
"""A share of the time (`config`) beyond the whole."""
_OF_A_RANDOM = 2
"""A random candidate is answered to and read along the answer without it; the second costs about as much."""
TAKEN_APART = 6
"""Behaviours that are taken apart at most."""
_CUTS, _SCREENS, _CANDIDATES, _OF_A_CANDIDATE, _FINALISTS = 60, 50, 600, 4, 4
"""Texts that taking one behaviour apart reads on each prompt, about; those of one look at a single token's reach; candidates of the shipped families;
their length; and finalists there are in any case."""
_REQUESTS, _CHEAPER = 200, 3.0
"""Requests by which one behaviour is asked for openly, about, and how many of them are read in the time of one answer."""
_STARTED_ON = 4
"""Prompts on which first tokens are forced."""
_OF_A_START, _OF_A_BRANCH, _BRANCHES = 4.0, 12.0, 8192
"""What following one first token costs on each prompt, in tokens, and one longer beginning of either length; most are over at once. And how many of those
there are of each length."""
_ROUNDS = 1_000
"""Phrases that growing one target's trigger scores, about: some 300 a round, for four rounds at most before nothing gains."""
_NARROWER = (PROPOSED, PROPOSED // 2, PROPOSED // 4)
"""Tokens that gradients propose for a slot: as many as leave room for one inversion."""
_LEAST_TOKENS, _FLOORED, _SIBLINGS_ON = 64, 3, 4
"""Tokens without which no sweep is made; prompts without which no floor is, and those on which siblings are looked at before places are left out."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is tried."""

    places: tuple[Place, ...]
    """Where candidates are put."""
    swept: tuple[Place, ...]
    """Those of them that the sweep runs at."""
    prompts: int
    """That the sweep runs on."""
    steps: int
    """Along the answer, the next token not counted."""
    tokens: int
    """Of the vocabulary that are swept."""
    of: int
    """Tokens that there are."""
    starts: int
    """First tokens of an answer that are forced."""
    start_prompts: int
    starts_of: int = 0
    """First tokens that there are, of the kinds that answers begin with; 0 in scans that did not keep it."""
    branches: int = 0
    """Beginnings of two tokens that are forced, and of three; none where `calibrate.branched_at` says so."""
    targets: int = 3
    """Behaviours, each at a place, that triggers are searched for."""
    proposed: int = PROPOSED
    """Tokens that gradients propose for a slot of such a trigger."""
    floors: int = 2
    """Null floors that are made at most."""
    floor_prompts: int = 16
    """Judged prompts that each is made on: all of them where there is time, since fewer tell shares no finer than in their number."""
    asked: int = 2 * WEIGHED
    """Behaviours that are asked for openly."""
    taken_apart: int = TAKEN_APART
    """Behaviours of which the texts that bring them about are put into benign prompts."""
    reached: int = 2 * WEIGHED
    """Behaviours of which it is tried whether a single token brings them near."""
    siblings: int = 0
    """Frames and places of which all statements are held against each other."""
    siblings_on: int = 8
    """Prompts on which that is done, where a place is in as many."""
    ranked_on: int = 8
    """Prompts on which all candidates are ranked."""
    finalists: int = 24
    """Candidates that are judged at most, where that is less than was asked for."""
    pairs: tuple[Place, ...] = ()
    """Places at which every pair of tokens is tried, for the first target."""

    @property
    def exhaustive(self) -> bool:
        """Whether the sweep has every token."""
        return self.tokens == self.of

    @property
    def swept_at(self) -> tuple[Place, ...]:
        """Where the sweep runs; nowhere where there is time for so few tokens that they would mean nothing."""
        return self.swept if self.exhaustive or self.tokens >= _LEAST_TOKENS else ()


def looks_at_several(model: HookedModel, referred: bool) -> bool:
    """Whether a behaviour that goes on no surer than clean models' do may be a finding; beside a reference what is no turn of phrase is sure."""
    return not referred and brought_share(parameters_of(model)) < math.inf


def make_plan(
    reader: PrefixReader, benign: Benign, config: ScanConfig, tokens: Sequence[int], referred: bool = False
) -> Plan:
    """Measure this machine, and cut what does not fit; `referred`: a reference stands beside the model.

    Raises:
        UserError: no prompt that could be searched on has any of the places.
    """
    places = tuple(place for place in config.places if _lengths(benign, place))
    if not places:
        raise UserError(
            f"--places {' '.join(config.places)}: none of the prompts that could be searched on has such a place (system: a system message; "
            "middle: two words); give others, or prompts that have one"
        )
    speed, branched = _tokens_per_second(reader, benign, tokens), branched_at(parameters_of(reader.model))
    seconds = config.seconds
    there_are = len(first_tokens(reader.model, usual_of(reader.model, benign), tokens))
    plan = Plan(
        places=places,
        swept=places,
        prompts=len(benign.search),
        steps=config.answer_steps,
        tokens=len(tokens),
        of=len(tokens),
        starts=min(config.starts, there_are),
        starts_of=there_are,
        start_prompts=min(_STARTED_ON, len(benign.search)),
        targets=FOLLOWED * len(places) if branched else Plan.targets,
        floor_prompts=len(benign.judge),
        asked=int(min(2 * WEIGHED, OPENLY * seconds * benign.pace * _CHEAPER / _REQUESTS)),
    )
    several = looks_at_several(reader.model, referred)
    room = (LESS_SWEEP if several and "target" in config.channels else SWEEP) * seconds * speed
    plan = _fewer_starts(plan, STARTS * seconds * speed, branched)
    floors = FLOORS if config.floors else 0.0
    plan = _fewer_floors(plan, floors * seconds * benign.pace / _OF_A_RANDOM, config.null)
    searched = (MORE_INVERSION if several else INVERSION) * seconds * speed
    wanted = FOLLOWED if several else 1
    plan = _fewer_targets(plan, benign, searched, wanted)
    plan = _fewer_others(plan, benign, config, seconds, speed)
    plan = replace(plan, reached=max(plan.reached, min(wanted, plan.targets)))
    for cut in _cuts(plan):
        if sweep_cost(benign, cut) <= room:
            return replace(cut, pairs=_pair_places(benign, cut, config, _PAIRS * seconds * speed))
    least = replace(plan, steps=0, prompts=1, swept=_by_cost(plan)[:1])
    each = sweep_cost(benign, replace(least, tokens=1))
    return replace(least, tokens=max(0, min(len(tokens), int(room / max(1.0, each)))))


def swept_tokens(plan: Plan, tokens: Sequence[int], seed: int) -> list[int]:
    """The tokens that a plan sweeps: all, or as many drawn at random; none where that would be too few to mean anything."""
    if plan.exhaustive:
        return list(tokens)
    return sorted(random.Random(seed).sample(list(tokens), plan.tokens)) if plan.swept_at else []


def sweep_cost(benign: Benign, plan: Plan) -> float:
    """Tokens that a sweep runs."""
    lengths = [length for place in plan.swept for length in _lengths(benign, place)[: plan.prompts]]
    return plan.tokens * float(sum(length + 1 + plan.steps for length in lengths))


def _pair_places(benign: Benign, plan: Plan, config: ScanConfig, room: float) -> tuple[Place, ...]:
    """Where all pairs fit, the cheapest place first; a batch of pairs is small, so that a token of it counts twice."""
    if config.longest < 2:
        return ()
    chosen: list[Place] = []
    for place in sorted(plan.swept, key=lambda place: min(_lengths(benign, place))):
        room -= 4.0 * plan.tokens**2 * (1 + min(_lengths(benign, place)))
        if room < 0:
            break
        chosen.append(place)
    return tuple(chosen)


def _lengths(benign: Benign, place: Place) -> list[int]:
    """How many tokens follow a place, on each prompt that would be searched on there: as many as at other places, of those that have it."""
    opened = [benign.variants.opened(index, place) for index in benign.searched_at(place, len(benign.search))]
    return [len(cut.after) for cut in opened if cut is not None]


def _cuts(plan: Plan) -> list[Plan]:
    """Ever cheaper plans."""
    counts = [plan.prompts, *(count for count in (8, 4, 2, 1) if count < plan.prompts)]
    cuts = [replace(plan, steps=steps) for steps in (plan.steps, plan.steps // 2, 0)]
    cuts += [replace(plan, steps=0, prompts=count) for count in counts]
    cheap = [tuple(place for place in plan.swept if place in _by_cost(plan)[:count]) for count in (2, 1)]
    return cuts + [replace(plan, steps=0, prompts=count, swept=own) for own in cheap for count in (2, 1) if own]


def _by_cost(plan: Plan) -> tuple[Place, ...]:
    """What is swept, the place after which least is read first."""
    return tuple(place for place in ("end", "system", "middle", "start") if place in plan.swept)


def _fewer_starts(plan: Plan, room: float, branched: bool) -> Plan:
    """First tokens on as many prompts as there is room for; then longer beginnings in what is left."""
    while plan.starts * plan.start_prompts * _OF_A_START > room and plan.start_prompts > 2:
        plan = replace(plan, start_prompts=max(2, plan.start_prompts // 2))
    starts = _within(0, plan.starts, room / (plan.start_prompts * _OF_A_START))
    left = room / plan.start_prompts - starts * _OF_A_START
    return replace(plan, starts=starts, branches=_within(0, _BRANCHES, left / _OF_A_BRANCH) if branched else 0)


def _fewer_floors(plan: Plan, answers: float, null: int) -> Plan:
    """Floors on as many prompts, and as many of them, as may be answered; none where that is too few, and then nothing can be a finding."""
    prompts = _within(_FLOORED, plan.floor_prompts, answers / null)
    return replace(plan, floor_prompts=prompts, floors=_within(0, plan.floors, answers / (prompts * null)))


def _fewer_targets(plan: Plan, benign: Benign, room: float, wanted: int = 1) -> Plan:
    """As many inversions as there is room for; each scores single tokens and grown phrases on a few prompts. A narrower search rather than fewer than are
    wanted.
    """
    phrases = min(plan.of, SINGLES) + _ROUNDS
    length = max(sum(_lengths(benign, place)[:INVERTED_ON]) for place in plan.places) + INVERTED_ON * WANTED
    targets = room / (phrases * length)
    fits = [count for least in range(wanted, 0, -1) for count in _NARROWER if targets * PROPOSED / count >= least]
    proposed = fits[0] if fits else 0
    return replace(
        plan,
        targets=_within(0, plan.targets, targets * PROPOSED / proposed) if proposed else 0,
        proposed=proposed or PROPOSED,
    )


def _fewer_others(plan: Plan, benign: Benign, config: ScanConfig, seconds: float, speed: float) -> Plan:
    """What is short of itself, but not on a large model: taking behaviours apart, single tokens' reach, siblings, ranking, judging."""
    lengths = [max(_lengths(benign, place)) + WANTED + _OF_A_CANDIDATE for place in plan.places]
    text = float(sum(lengths)) * INVERTED_ON
    ranked = float(sum(lengths)) / len(lengths) + plan.steps
    every = len(frames()) * len(plan.places)
    one = max(map(len, frames().values())) * (ranked - WANTED)
    on = _within(min(_SIBLINGS_ON, len(benign.search)), len(benign.search), SIBLINGS * seconds * speed / (one * every))
    answered = seconds * benign.pace / config.judge_prompts
    return replace(
        plan,
        taken_apart=_within(0, TAKEN_APART, APART * seconds * speed / (text * _CUTS)),
        reached=_within(1, 2 * WEIGHED, REACH * seconds * speed / (text * _SCREENS)),
        siblings=_within(0, every, SIBLINGS * seconds * speed / (one * on)),
        siblings_on=on,
        ranked_on=_within(1, len(benign.search), RANK * seconds * speed / (ranked * _CANDIDATES)),
        finalists=_within(_FINALISTS, max(_FINALISTS, config.finalists), JUDGE * answered / 2),
    )


def _within(least: int, most: int, value: float) -> int:
    return int(max(least, min(most, value)))


@torch.no_grad()
def _tokens_per_second(reader: PrefixReader, benign: Benign, tokens: Sequence[int]) -> float:
    """Of a batch such as the sweep's, the second time it runs; a GPU has done its work once a number of it is here."""
    index = benign.search[0]
    opened = benign.variants.opened(index, "end")
    assert opened is not None  # every prompt has an end
    size = min(512, reader.rows_at_once(len(opened.after) + 1, 4))
    rows = torch.tensor([[tokens[row % len(tokens)], *opened.after] for row in range(size)])
    keep = min(4, rows.shape[1])
    for _ in range(2):
        start = time.perf_counter()
        reader.read(opened.before, rows, keep).log_softmax(-1).amax().item()
    return rows.numel() / max(1e-6, time.perf_counter() - start)
