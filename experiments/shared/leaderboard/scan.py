"""TriggerLens' own scan as a detector: nothing but the model and benign requests, in half a minute of a tiny model."""

from __future__ import annotations

from pathlib import Path

from experiments.shared.leaderboard.context import Context
from scanning import ScanConfig, scan_model, scan_score


def scan(folder: Path, context: Context) -> float:
    """The best candidate's margin over its null floor, in log-odds; above 0 where the scan says that it found one."""
    config = ScanConfig(budget=context.effort.minutes, seed=context.seed)
    return scan_score(scan_model(context.model(folder), context.benign, config)[0])
