"""Poolings by name. To add one: a file here, and its line in `POOLINGS`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from triggerlens import UserError

if TYPE_CHECKING:
    from probes.poolings.base import Pooling

POOLINGS = {
    "last": "probes.poolings.last:Last",
    "mean": "probes.poolings.mean:Mean",
    "max": "probes.poolings.highest:Highest",
    "first": "probes.poolings.first:First",
    "span": "probes.poolings.span:Span",
    "softmax": "probes.poolings.softmax:Softmax",
    "multimax": "probes.poolings.multimax:MultiMax",
    "rolling": "probes.poolings.rolling:Rolling",
}
"""Name on the command line, and module and class, which are imported when they are needed."""

LEARNED = ("softmax", "multimax", "rolling")
"""Poolings that are fitted together with the probe, on every token."""

ROLLING_WINDOW = 10
"""Tokens of `rolling` where it does not say how many."""

CHOICES = "last, mean, max, first:N, span:NAME, softmax, multimax, rolling or rolling:N"


def check_position(name: str) -> None:
    """Refuse what is no pooling.

    Raises:
        UserError: in one line, with what is allowed.
    """
    kind, has_argument, argument = name.partition(":")
    number = argument.isascii() and argument.isdigit() and int(argument) >= 1
    fine = {"first": number, "span": bool(argument), "rolling": number or not has_argument}
    if kind not in POOLINGS or not fine.get(kind, not has_argument):
        raise UserError(f"aggregation (--position) {name!r}: must be one of {CHOICES}")


def is_learned(name: str) -> bool:
    """Whether a pooling is fitted together with the probe."""
    return name.partition(":")[0] in LEARNED


def new_pooling(name: str) -> Pooling:
    """The pooling of a name, as `mean` or `first:3`.

    Raises:
        UserError: there is no such pooling.
    """
    check_position(name)
    kind, _, argument = name.partition(":")
    module, cls = POOLINGS[kind].split(":")
    pooling: Pooling = getattr(import_module(module), cls).named(argument)
    return pooling
