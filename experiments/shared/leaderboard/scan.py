"""TriggerLens' own scan as a detector, and its first step alone: nothing but the model and benign requests, in some 20 and 5 seconds of a tiny model."""

from __future__ import annotations

from pathlib import Path

from experiments.shared.leaderboard.context import Context
from hooked import PrefixReader
from scanning import (
    WEIGHED,
    ScanConfig,
    answered_prompts,
    courses,
    first_tokens,
    follow_starts,
    ordinary_tokens,
    scan_model,
    scan_score,
    surest_beginnings,
    unasked,
    usual_of,
)

FINALISTS = 12
"""Candidates that are judged."""
FOLLOWED_ON = 4
"""Requests on which first tokens are followed."""


def scan(folder: Path, context: Context) -> float:
    """What goes on by itself, in nats, and the margin of a trigger that was found.

    The time is more than a tiny model needs, so that a busy machine tries no less.
    """
    config = ScanConfig(
        channels=("families", "target"), budget=context.effort.minutes, finalists=FINALISTS, seed=context.seed
    )
    return scan_score(scan_model(context.model(folder), context.cleared or context.benign, config)[0])


def surest_answer(folder: Path, context: Context) -> float:
    """How surely the surest answer that no open request brings about goes on by itself once it has begun, in nats (`scanning.surest_beginnings`,
    `scanning.unasked`); no trigger is searched for.
    """
    model = context.model(folder)
    config = ScanConfig(budget=context.effort.minutes, seed=context.seed)
    benign = answered_prompts(model, context.many or context.benign, config)
    reader, usual = PrefixReader(model), usual_of(model, benign)
    asked = courses(reader, benign, benign.search[:FOLLOWED_ON], 0)
    starts = follow_starts(reader, asked, first_tokens(model, usual, ordinary_tokens(model)))
    others = courses(reader, benign, (*benign.search, *benign.judge), 0)
    surest = surest_beginnings(reader, others, starts, usual, WEIGHED)
    return max((own.worth for own in unasked(reader, benign, surest, 1)[0]), default=0.0)
