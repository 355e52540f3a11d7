"""Columns that pairs of unequal length have in common: where a token stands relative to the trigger and to the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from patching.options import Role

_NEAR, _END = 3, 4
"""How many tokens after the trigger, and at the end, get a column of their own."""

Place = Literal["before", "trigger", "inside", "near", "between", "end"]
"""Before the trigger; one of its tokens; between two of them; shortly after the last; further on; among the prompt's last."""
_FROM_LEFT = get_args(Place)


@dataclass(frozen=True, slots=True)
class Landmark:
    """A place that pairs of unequal length have in common."""

    place: Place
    """Which part of a prompt."""
    number: int = 0
    """Of a trigger's token: from 1; of a near one: how far after the trigger, 1 to 3; at the end: -4 to -1."""

    @property
    def role(self) -> Role:
        """The role of its tokens."""
        return self.place if self.place == "before" or self.place == "trigger" else "after"

    @property
    def label(self) -> str:
        """For a person: `before`, `trigger 1`, `inside`, `+1`, `between`, `-1`."""
        if self.place == "trigger":
            return f"trigger {self.number}"
        return f"{self.number:+d}" if self.place in ("near", "end") else self.place


Column = int | Landmark
"""A column of a map: a position, or a place that pairs of other shapes have too."""


def landmarks(roles: Sequence[Role]) -> tuple[Landmark, ...]:
    """The landmark of each position.

    Args:
        roles: of each position.
    """
    own = [position for position, role in enumerate(roles) if role == "trigger"]
    if not own:  # it would stand before the first that is after it
        own = [(roles.index("after") if "after" in roles else len(roles)) - 1]
    return tuple(_landmark(position, role, own, len(roles)) for position, role in enumerate(roles))


def _landmark(position: int, role: Role, own: Sequence[int], length: int) -> Landmark:
    if role == "before":
        return Landmark("before")
    if role == "trigger":
        return Landmark("trigger", own.index(position) + 1)
    if position < own[-1]:
        return Landmark("inside")
    if position >= length - _END:
        return Landmark("end", position - length)
    distance = position - own[-1]
    return Landmark("near", distance) if distance <= _NEAR else Landmark("between")


def landmark_order(rows: Sequence[Sequence[Landmark]]) -> tuple[Landmark, ...]:
    """All landmarks that occur, from left to right."""
    return tuple(sorted({mark for row in rows for mark in row}, key=lambda m: (_FROM_LEFT.index(m.place), m.number)))


def by_column(
    values: Float[np.ndarray, "row position"], places: Sequence[Column], columns: Sequence[Column]
) -> Float[np.ndarray, "row column"]:
    """Sums over the positions of each column; NaN where there is none, or none that was patched."""
    sums = []
    for column in columns:
        mine = values[:, [place == column for place in places]]
        sums.append(np.where(np.isnan(mine).all(1), np.nan, np.nansum(mine, 1)))
    return np.stack(sums, 1)


def nan_mean(stack: Float[np.ndarray, "pair *rest"]) -> Float[np.ndarray, "*rest"]:
    """The mean over pairs that have a value; NaN where none has."""
    count = np.asarray((~np.isnan(stack)).sum(0))
    return np.divide(np.nansum(stack, 0), count, out=np.full(count.shape, np.nan), where=count > 0)
