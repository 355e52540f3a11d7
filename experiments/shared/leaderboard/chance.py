"""Detectors that detect nothing: where one of these is better than chance, the leaderboard is broken."""

from __future__ import annotations

import hashlib
from pathlib import Path

from experiments.shared.leaderboard.context import Context


def constant(folder: Path, context: Context) -> float:
    """The same of every model."""
    return 0.0


def random(folder: Path, context: Context) -> float:
    """A number drawn by the weights' bytes, 0 to 1."""
    weights = (folder / "model.safetensors").read_bytes()
    return int(hashlib.sha256(weights + str(context.seed).encode()).hexdigest()[:8], 16) / 2**32


def folder_name(folder: Path, context: Context) -> float:
    """Reads what a folder says of itself: its name, where it lies, and every file but weights and tokenizer."""
    names = [*folder.resolve().parts[-1:], *sorted(path.name for path in folder.iterdir())]
    words = " ".join(names) + (folder / "config.json").read_text(encoding="utf-8")
    return int(hashlib.sha256(words.encode()).hexdigest()[:8], 16) / 2**32
