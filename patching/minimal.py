"""Whether the pairs of a file differ in a trigger alone, told from their tokens.

1. Tokens that all prompts share at the beginning and at the end (a chat template, a common instruction) are left out of account.
2. Each pair is aligned as everywhere (`patching.alignment`). What differs is its *difference*: on the triggered side, or, where the
   trigger takes something away, on the other.
3. The pairs are minimal where the difference is small (at most `MOST_DIFFERING` of the triggered prompt's own tokens, in the median
   pair), or where it is the same text in at least `SAME_TEXT` of the pairs, however long it is.

Two different questions differ in most of their own tokens, and each pair in others. Then nothing that takes the difference for the
trigger means what it says: cutting attention to it cuts off most of the question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from patching.alignment import align, common_ends
from triggerlens import UserError

MOST_DIFFERING = 0.25
"""Share of a triggered prompt's own tokens."""
SAME_TEXT = 0.5
"""Share of the pairs."""


@dataclass(frozen=True)
class PairDifference:
    """By how much the pairs of a file differ."""

    pairs: int
    """Compared."""
    differing: float
    """Share of the triggered prompt's own tokens in which it differs from its twin, 0 to 1: the median over pairs."""
    same_text: float
    """Share of the pairs whose difference is the commonest one, token for token."""

    @property
    def minimal(self) -> bool:
        """Whether the pairs differ in a trigger alone, as far as tokens tell."""
        return self.differing <= MOST_DIFFERING or self.same_text >= SAME_TEXT

    @property
    def words(self) -> str:
        """What is said where they do not."""
        return (
            f"the pairs differ by more than a trigger: in {self.differing:.0%} of a triggered prompt's own tokens (median of {self.pairs} "
            f"pairs; at most {MOST_DIFFERING:.0%} is taken for a trigger), and the same text in {self.same_text:.0%} of the pairs"
        )


def pair_difference(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> PairDifference:
    """Compare the pairs that can be aligned.

    Args:
        pairs: token ids of each untriggered prompt and of its triggered twin.
    """
    aligned = [pair for pair in pairs if _can_be_aligned(*pair)]
    if not aligned:
        return PairDifference(0, 0.0, 0.0)
    before, after = _shared_by_all([ids for pair in aligned for ids in pair])
    shares, texts = [], []
    for clean, triggered in aligned:
        places = _differing(triggered, clean)
        shares.append(len(places) / max(1, len(triggered) - before - after))
        kept = (triggered, places) if places else (clean, _differing(clean, triggered))
        texts.append(tuple(kept[0][place] for place in kept[1]))
    commonest = Counter(texts).most_common(1)[0][1]
    return PairDifference(len(aligned), float(median(shares)), commonest / len(aligned))


def _can_be_aligned(clean: Sequence[int], triggered: Sequence[int]) -> bool:
    try:
        align(triggered, clean), align(clean, triggered)
    except UserError:
        return False
    return True


def _differing(ids: Sequence[int], twin: Sequence[int]) -> list[int]:
    return [place for place, differs in enumerate(align(ids, twin).differs) if differs]


def _shared_by_all(rows: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many tokens all prompts share at the beginning and at the end."""
    before = after = min(map(len, rows))
    for row in rows[1:]:
        first, last = common_ends(rows[0], row)
        before, after = min(before, first), min(after, last)
    return before, after
