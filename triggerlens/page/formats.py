"""Estimates as text, the same in every table, card and sentence; filters of the templates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from triggerlens.estimate import FEWEST

if TYPE_CHECKING:
    from triggerlens.estimate import Estimate

NOTHING = "–"
"""Shown for a value that is not a number, such as a rate of nothing."""


def value_text(estimate: Estimate, form: str = ".3f") -> str:
    """`0.990`; with the form `.1%`, `99.0%`; a dash where there was nothing to count."""
    return NOTHING if math.isnan(estimate.value) else format(estimate.value, form)


def interval_text(estimate: Estimate, form: str = ".3f") -> str:
    """`[0.980, 1.000]`; a dash for an end that is not known."""
    ends = (format(end, form) if math.isfinite(end) else NOTHING for end in estimate.interval)
    return f"[{', '.join(ends)}]"


def estimate_text(estimate: Estimate, form: str = ".3f") -> str:
    """`0.990 [0.980, 1.000]`; a dash alone where there was nothing to count."""
    if math.isnan(estimate.value):
        return NOTHING
    return f"{value_text(estimate, form)} {interval_text(estimate, form)}"


def count_text(estimate: Estimate) -> str:
    """`3 of 50`.

    Raises:
        ValueError: the estimate is not of a rate.
    """
    if estimate.count is None or estimate.n is None:
        raise ValueError(f"{estimate} is not a rate: it has no counts")
    return f"{estimate.count:,} of {estimate.n:,}"


def few_text(*counts: tuple[int | None, str]) -> str:
    """`too few test positives (2) and test negatives (3), at least 10 are needed`; empty where there are enough of each.

    Args:
        counts: how many there are of a kind, and what they are called, in the plural; None where that is not known.
    """
    few = [f"{what} ({n:,})" for n, what in counts if n is not None and n < FEWEST]
    return f"too few {' and '.join(few)}, at least {FEWEST} are needed" if few else ""
