"""Which token of one run stands for which token of the other, where the two prompts need not be equally long.

1. Prompts of equal length are aligned position by position (symmetric token replacement, Zhang and Nanda 2023,
   https://arxiv.org/abs/2309.16042).
2. Otherwise the common beginning and the common end are matched, and what stands between them is the difference.
3. Within the difference the last tokens are matched with the last. What is left over in the patched run was *inserted*:
   it has no token of its own in the source run, and takes the one before it, at the very start the one after it (or, on request,
   is not patched).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor, tensor

from patching.options import Inserted, Role
from triggerlens import UserError


@dataclass(frozen=True, slots=True)
class Alignment:
    """For each position of the run that is patched, where its replacement is read in the source run."""

    counterparts: tuple[int | None, ...]
    """A position of the source run, or None: this position is not patched."""
    inserted: tuple[bool, ...]
    """Positions of the patched run that only it has; a counterpart there is a neighbour's."""
    differs: tuple[bool, ...]
    """Positions where the token is not its counterpart's: the trigger's own tokens, where the pair differs in them alone."""

    @property
    def unchanged(self) -> int:
        """How many positions at the start are the same in both runs, so that under causal attention patching does nothing."""
        pairs = zip(self.counterparts, self.differs, strict=True)
        return next(
            (position for position, (other, differs) in enumerate(pairs) if differs or other != position),
            len(self.counterparts),
        )

    @property
    def roles(self) -> tuple[Role, ...]:
        """`before` the first token that differs, `trigger` where it differs, else `after`, for each position. Where the patched run lacks the trigger, as
        an inserted one's is where a clean run is patched, what follows its place is after it."""
        first = self.differs.index(True) if True in self.differs else self.unchanged
        return tuple(
            "trigger" if differs else "before" if position < first else "after"
            for position, differs in enumerate(self.differs)
        )

    @property
    def mask(self) -> Bool[Tensor, "position"]:
        """Positions that have a counterpart."""
        return tensor([other is not None for other in self.counterparts])


def align(patched: Sequence[int], source: Sequence[int], inserted: Inserted = "neighbour") -> Alignment:
    """Align the token ids of the run that is patched with those of the run that activations come from.

    Args:
        patched: token ids.
        source: token ids.
        inserted: what an inserted token is patched with: the activation of the source token before it (after it, where there is none), or
            nothing.

    Raises:
        UserError: the prompts have unequal lengths and neither a first nor a last token in common, or they are the same.
    """
    if list(patched) == list(source):
        raise UserError("the two prompts of the pair have the same tokens, so there is nothing to patch")
    if len(patched) == len(source):
        return given_alignment(patched, source, range(len(patched)))
    before, after = common_ends(patched, source)
    if before + after == 0:
        raise UserError(
            "the two prompts of the pair have neither their first nor their last token in common, so the alignment is empty; "
            "give prompts that differ in the trigger alone, or an alignment"
        )
    matched = (
        min(len(patched), len(source)) - before - after
    )  # tokens of the difference that are replaced, not inserted
    first_matched = len(patched) - after - matched
    shift = len(source) - len(patched)
    neighbour = max(0, before - 1) if inserted == "neighbour" else None
    counterparts = [
        position if position < before else neighbour if position < first_matched else position + shift
        for position in range(len(patched))
    ]
    return given_alignment(
        patched, source, counterparts, inserted=[before <= position < first_matched for position in range(len(patched))]
    )


def given_alignment(
    patched: Sequence[int],
    source: Sequence[int],
    counterparts: Sequence[int | None],
    inserted: Sequence[bool] | None = None,
) -> Alignment:
    """An alignment that the user gives.

    Args:
        patched: token ids.
        source: token ids.
        counterparts: a position of the source run for each position of the patched one; None: not patched.
        inserted: positions that only the patched run has; none where not given.

    Raises:
        UserError: there is not one entry a position, an entry lies outside the source run, or all are None.
    """
    if len(counterparts) != len(patched):
        raise UserError(f"the alignment has {len(counterparts)} entries, but the patched run has {len(patched)} tokens")
    wrong = next((other for other in counterparts if other is not None and not 0 <= other < len(source)), None)
    if wrong is not None:
        raise UserError(f"the alignment names position {wrong} of a source run of {len(source)} tokens")
    if all(other is None for other in counterparts):
        raise UserError("the alignment is empty: no position of the patched run has a counterpart")
    marks = tuple(inserted) if inserted is not None else (False,) * len(patched)
    differs = tuple(
        mark or other is None or source[other] != token
        for token, other, mark in zip(patched, counterparts, marks, strict=True)
    )
    return Alignment(tuple(counterparts), marks, differs)


def common_ends(first: Sequence[int], second: Sequence[int]) -> tuple[int, int]:
    """Lengths of the common beginning and of the common end of two rows of token ids, which do not overlap."""
    shorter = min(len(first), len(second))
    before = next((index for index in range(shorter) if first[index] != second[index]), shorter)
    rest = shorter - before
    after = next((index for index in range(rest) if first[-1 - index] != second[-1 - index]), rest)
    return before, after


def alignment_table(
    alignment: Alignment, patched: Sequence[str], source: Sequence[str]
) -> list[tuple[int, str, str, str]]:
    """The alignment as rows that a person can read: position, its token, its counterpart's token, and what it is."""
    rows = []
    for position, (token, other) in enumerate(zip(patched, alignment.counterparts, strict=True)):
        kind = "inserted" if alignment.inserted[position] else "differs" if alignment.differs[position] else "same"
        rows.append((position, token, "" if other is None else source[other], "not patched" if other is None else kind))
    return rows
