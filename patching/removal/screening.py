"""Successive halving: methods compete on few validation pairs, and the worse half drops out until few are left.

1. Edits of weights compete with edits of weights (the best of them is saved), and edits of activations with edits of activations.
2. With the first seed each method makes its edit. In each round all methods that are left are measured on the same validation
   pairs, ranked as the scoreboard ranks (`patching.removal.result.rank_of`), and the better half, rounded up, goes on.
3. Each round has twice the pairs of the one before; the last has all validation pairs. So all rounds cost about the same.
4. What is left is measured in full, with every seed; of edits of activations, which cannot be saved, only as many as are asked for. What
   dropped out is not measured: the scoreboard says so, and with how many pairs.

No pair that is reported on is ever looked at, so the screen chooses as validation does. With few pairs it can drop a method that all pairs
would have ranked first; those that are close stay together longest, since the last round is the ranking itself for that seed.

Sequential halving: Karnin, Koren and Somekh 2013, https://proceedings.mlr.press/v28/karnin13.html; successive halving without assumptions
on noise: Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

from patching.removal.config import Screening
from patching.removal.result import EditOutcome, ScreenedMethod, ScreenResult, rank_of
from triggerlens import in_turn

Kind = Literal["weights", "activations"]

Look = Callable[[str, int], EditOutcome | None]
"""What the edit of a method, by name, does on so many of the first validation pairs; None where it gives NaN, and is out of the race."""


def rounds_of(methods: int, survivors: int, pairs: int) -> tuple[tuple[int, int], ...]:
    """Of each round the validation pairs, and how many methods are left after it; none where none has to go.

    >>> rounds_of(7, 1, 40)
    ((10, 4), (20, 2), (40, 1))
    """
    left: list[int] = []
    while methods > survivors:
        methods = max(survivors, (methods + 1) // 2)
        left.append(methods)
    return tuple((-(-pairs // 2 ** (len(left) - number)), kept) for number, kept in enumerate(left, start=1))


def screen(
    kinds: dict[str, Kind], screening: Screening, pairs: int, look: Look, *, target: float, seed: int
) -> ScreenResult:
    """Steps 1 to 4.

    Args:
        kinds: each method's name and what it edits.
        screening: how many go on, of each kind.
        pairs: validation pairs that there are.
        look: measures; called once for each method and round, and again where another process was at it (`triggerlens.Busy`).
        target: as the scoreboard's.
        seed: that the edits were made with, for the record.
    """
    went_on: list[ScreenedMethod] = []
    out: list[ScreenedMethod] = []
    rounds = {}
    for kind in get_args(Kind):
        names = [name for name, own in kinds.items() if own == kind]
        survivors = screening.survivors if kind == "weights" else screening.activation_survivors
        if kind == "activations" and not went_on:
            survivors = max(1, survivors)
        once = ((pairs, len(names)),) if survivors < len(names) else ()
        left, run = [ScreenedMethod(name, kind, seed, 0, None) for name in names], []
        for number, (count, kept) in enumerate(rounds_of(len(names), max(1, survivors), pairs) or once, start=1):
            outcomes = in_turn([partial(look, method.name, count) for method in left])
            seen = [
                ScreenedMethod(method.name, kind, seed, number, outcome)
                for method, outcome in zip(left, outcomes, strict=True)
                if outcome is not None
            ]
            ranked = _ranked(seen, target)
            left, dropped = ranked[:kept], ranked[kept:]
            out = dropped + out
            run.append((count, len(left)))
        rounds[kind] = tuple(run)
        went_on += left[:survivors]
        out = left[survivors:] + out
    return ScreenResult(tuple(went_on), tuple(out), rounds)


def _ranked(seen: Sequence[ScreenedMethod], target: float) -> list[ScreenedMethod]:
    """Best first; equal ones in the order that they were tried in."""
    return sorted(seen, key=lambda method: () if method.outcome is None else rank_of([method.outcome], target))
