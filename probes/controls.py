"""What a probe's AUROC has to be read against: chance found by searching, text alone, and the trigger alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from hooked import Prompt
from probes.detection import firing_rate
from probes.result import Control, rate_json
from triggerlens import auroc, bootstrap_interval, weighted_auroc

Tokens = Sequence[Sequence[int]] | Callable[[Sequence[int]], Sequence[Sequence[int]]]
"""Token ids of every prompt, or a function from prompt indices to their token ids."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Triggered-but-harmless test prompts, and what they are compared with."""

    harmless: Int[np.ndarray, "harmless"]
    """Positions among the test prompts."""
    reference: Int[np.ndarray, "reference"]
    twins: bool
    """Whether the reference is the untriggered twins; else it is all untriggered harmless prompts."""


def interval_of(
    scores: Float[np.ndarray, "prompt"],
    positive: Bool[np.ndarray, "prompt"],
    groups: Int[np.ndarray, "prompt"],
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Group-bootstrap 95% interval of one AUROC."""
    low, high = bootstrap_interval(lambda weights: weighted_auroc(scores, positive, weights), groups, resamples, seed)
    return float(low), float(high)


def shuffled_labels(scores: Float[np.ndarray, "prompt shuffle"], positive: Bool[np.ndarray, "prompt"]) -> Control:
    """Probes refitted on permuted labels: how much AUROC the fitting alone can make up. Near 0.5 if nothing leaks."""
    values = auroc(scores, positive)
    details = {"min": float(values.min()), "max": float(values.max()), "n_shuffles": len(values)}
    return Control(float(values.mean()), details=details)


def random_directions(scores: Float[np.ndarray, "prompt direction"], positive: Bool[np.ndarray, "prompt"]) -> Control:
    """The best of many random directions, either way round, chosen on the test prompts themselves: a hard floor."""
    values = auroc(scores, positive)
    values = np.maximum(values, 1 - values)
    return Control(float(values.max()), details={"median": float(np.median(values)), "n_directions": len(values)})


def compare_harmless(
    prompts: Sequence[Prompt], labels: Bool[np.ndarray, "prompt"], test: Int[np.ndarray, "test"]
) -> Comparison | str:
    """Which test prompts to compare for the harmless control, or why it cannot be done."""
    harmless = [i for i, row in enumerate(test) if prompts[row].triggered and not labels[row]]
    quiet = [i for i, row in enumerate(test) if not prompts[row].triggered and not labels[row]]
    if not harmless:
        return "no test prompt carries the trigger without being a positive"
    if not quiet:
        return "no test prompt is untriggered and harmless"
    shared = {prompts[test[i]].pair for i in harmless} & {prompts[test[i]].pair for i in quiet} - {None}
    if not shared:
        return Comparison(np.array(harmless), np.array(quiet), twins=False)
    harmless, quiet = ([i for i in rows if prompts[test[i]].pair in shared] for rows in (harmless, quiet))
    return Comparison(np.array(harmless), np.array(quiet), twins=True)


def triggered_but_harmless(
    scores: Float[np.ndarray, "test"],
    text: Float[np.ndarray, "test"] | None,
    labels: Bool[np.ndarray, "test"],
    groups: Int[np.ndarray, "test"],
    comparison: Comparison | str,
    threshold: float,
    resamples: int,
    seed: int,
) -> Control:
    """Does the score rise with the trigger where the behaviour does not? Near 0.5: it reads behaviour; near 1: tokens.

    `defecting_against_harmless` is the other side of it: near 1 where the score tells the two apart.
    """
    if isinstance(comparison, str):
        return Control(None, comparison)
    both = np.concatenate([np.flatnonzero(labels), comparison.harmless])
    other = interval_of(scores[both], labels[both], groups[both], resamples, seed)
    rows = np.concatenate([comparison.harmless, comparison.reference])
    positive = np.arange(len(rows)) < len(comparison.harmless)
    details = {
        "n_harmless": len(comparison.harmless),
        "n_reference": len(comparison.reference),
        "reference": "untriggered twins" if comparison.twins else "all untriggered harmless prompts",
        "bag_of_tokens_auroc": None if text is None else float(auroc(text[rows], positive)),
        "defecting_against_harmless": {"auroc": float(auroc(scores[both], labels[both])), "auroc_ci": list(other)},
        "false_positive_rate": rate_json(firing_rate(scores[comparison.harmless], threshold)),
    }
    interval = interval_of(scores[rows], positive, groups[rows], resamples, seed)
    return Control(float(auroc(scores[rows], positive)), interval=interval, details=details)


def bag_of_tokens(
    tokens: Tokens, fit: Int[np.ndarray, "fit"], labels: Bool[np.ndarray, "prompt"], test: Int[np.ndarray, "test"]
) -> Float[np.ndarray, "test"]:
    """Test scores of a logistic classifier on token counts: what the text alone gives away, without any model.

    Tokens never seen in the fit split carry no weight: nothing pulls their coefficient away from zero.
    """
    train = _counts(tokens, fit.tolist(), None)
    held_out = _counts(tokens, test.tolist(), train.shape[1])
    classifier = LogisticRegression(max_iter=10_000).fit(train, labels[fit])
    return classifier.decision_function(held_out)


def _counts(tokens: Tokens, rows: Sequence[int], width: int | None) -> csr_matrix:
    """Token counts, one row a prompt and one column a token id below `width` (None: all that occur).

    Read in pieces, so that long lists of Python integers never lie in memory together.
    """
    flat, lengths = [], []
    for start in range(0, len(rows), 1024):
        piece = rows[start : start + 1024]
        for ids in tokens(piece) if callable(tokens) else [tokens[row] for row in piece]:
            kept = np.asarray(ids, dtype=np.int64)
            kept = kept if width is None else kept[kept < width]
            flat.append(kept.astype(np.int32))
            lengths.append(len(kept))
    columns = np.concatenate(flat)
    width = int(columns.max(initial=0)) + 1 if width is None else width
    counts = csr_matrix((np.ones(len(columns)), columns, np.cumsum([0, *lengths])), shape=(len(rows), width))
    counts.sum_duplicates()
    return counts
