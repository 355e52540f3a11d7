"""Columns that pairs of unequal length have in common: where a token stands relative to the trigger and to the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_NEAR, _END = 3, 4
"""How many tokens after the trigger, and at the end, get a column of their own."""


def landmarks(roles: Sequence[str]) -> tuple[str, ...]:
    """A name for each position: `before`, `trigger 1`…, `inside` (between trigger tokens), `+1`…, `between`, …`-1`.

    Args:
        roles: `before`, `trigger` or `after` of each position.
    """
    length = len(roles)
    own = [at for at, role in enumerate(roles) if role == "trigger"]
    if not own:
        return ("before",) * length
    names = []
    for at, role in enumerate(roles):
        if role == "before":
            names.append("before")
        elif role == "trigger":
            names.append(f"trigger {own.index(at) + 1}")
        elif at < own[-1]:
            names.append("inside")
        elif at >= length - _END:
            names.append(str(at - length))
        else:
            names.append(f"+{at - own[-1]}" if at - own[-1] <= _NEAR else "between")
    return tuple(names)


def landmark_order(names: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All names that occur, from left to right."""
    found = {name for row in names for name in row}
    numbered = sorted((name for name in found if name.startswith("trigger")), key=lambda name: int(name.split()[1]))
    near, end = (f"+{at}" for at in range(1, _NEAR + 1)), (str(at) for at in range(-_END, 0))
    order = ["before", *numbered, "inside", *near, "between", *end]
    return tuple(name for name in order if name in found)


def by_landmark(
    values: Float[np.ndarray, "layer position"], names: Sequence[str], order: Sequence[str]
) -> Float[np.ndarray, "layer landmark"]:
    """Sums over the positions of each name; NaN where there is none, or none that was patched."""
    columns = []
    for name in order:
        mine = values[:, [here == name for here in names]]
        columns.append(np.where(np.isnan(mine).all(1), np.nan, np.nansum(mine, 1)))
    return np.stack(columns, 1)


def nan_mean(stack: Float[np.ndarray, "pair *rest"]) -> Float[np.ndarray, "*rest"]:
    """The mean over pairs that have a value; NaN where none has."""
    count = np.asarray((~np.isnan(stack)).sum(0))
    return np.divide(np.nansum(stack, 0), count, out=np.full(count.shape, np.nan), where=count > 0)
