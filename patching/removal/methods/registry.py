"""The methods on the scoreboard, each with its placebo."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from patching.removal.methods.method import Method

FILES = (
    "directions",
    "orthogonalise",
    "leace",
    "heads",
    "map_edits",
    "low_rank",
)
"""Files of this folder whose `METHODS` are tried, in this order."""


def methods_of(files: Sequence[str]) -> tuple[Method, ...]:
    """The methods that files of this folder define."""
    modules = [import_module(f"patching.removal.methods.{name}") for name in files]
    return tuple(method for module in modules for method in module.METHODS)


METHODS = methods_of(FILES)
"""Those of one layer are the weaker form of the one after them, and share its placebo."""
