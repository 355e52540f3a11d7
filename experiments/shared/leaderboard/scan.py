"""TriggerLens' own scan as a detector: nothing but the model and benign requests, in some 15 seconds of a tiny model."""

from __future__ import annotations

from pathlib import Path

from experiments.shared.leaderboard.context import Context
from scanning import ScanConfig, scan_model, scan_score

FINALISTS = 12
"""Candidates that are judged."""


def scan(folder: Path, context: Context) -> float:
    """What goes on by itself, in nats, and the margin of a trigger that was found.

    The time is more than a tiny model needs, so that a busy machine tries no less.
    """
    config = ScanConfig(
        channels=("families", "target"), budget=context.effort.minutes, finalists=FINALISTS, seed=context.seed
    )
    return scan_score(scan_model(context.model(folder), context.many or context.benign, config)[0])
