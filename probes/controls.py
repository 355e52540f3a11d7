"""What a probe's AUROC has to be read against: chance found by searching, text alone, and the trigger alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from probes.classifiers.base import Fitted
from probes.config import TrainConfig
from probes.detection import LabelledScores, firing_rate
from probes.inputs import Bank, CheckedPrompts
from probes.poolings import is_learned, new_pooling
from probes.result import Control, HarmlessControl
from triggerlens import auroc, mean_of

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

    @property
    def rows(self) -> Int[np.ndarray, "row"]:
        """The harmless ones, then the reference."""
        return np.concatenate([self.harmless, self.reference])

    @property
    def is_harmless(self) -> Bool[np.ndarray, "row"]:
        """Which of `rows` carry the trigger."""
        return np.arange(len(self.rows)) < len(self.harmless)


def make_bank(fitted: Fitted, layer: int, positive: Bool[np.ndarray, "test"], config: TrainConfig) -> Bank:
    """Probes refitted on shuffled labels, then unit vectors of random direction, at one layer.

    They score as many test prompts of each class as `max_control_prompts` allows; AUROC minds no class ratio.
    """
    generator = torch.Generator().manual_seed(config.seed)
    shape = config.n_random_directions, fitted.coef.shape[1]
    directions = torch.randn(shape, generator=generator, dtype=torch.float64)
    directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    most = max(1, config.max_control_prompts // 2)
    order = np.random.default_rng([config.seed, 3]).permutation(len(positive))
    chosen = np.sort(np.concatenate([order[positive[order]][:most], order[~positive[order]][:most]]))
    weights, intercept = fitted.shuffled(layer)
    nothing = torch.zeros(len(directions), dtype=torch.float64)
    if not is_learned(config.aggregation):
        return Bank([(torch.cat([weights, directions])[:, None], torch.cat([intercept, nothing]))], layer, chosen)
    own = fitted.coef[layer : layer + 1] if fitted.heads is None else fitted.heads[layer]
    alone = new_pooling(config.aggregation).alone(directions, own)
    return Bank([(weights, intercept), (alone, nothing)], layer, chosen)


def measure_controls(
    test: LabelledScores,
    bank: LabelledScores,
    text: Float[np.ndarray, "test"] | None,
    comparison: Comparison | str,
    threshold: float,
    n_shuffles: int,
) -> dict[str, Control]:
    """Every control of a probe.

    Args:
        test: the probe's own scores.
        bank: of the shuffled probes, then of the random directions [prompt probe], on some of the test prompts.
        text: scores of `bag_of_tokens`; None where no token ids were given.
        comparison: from `compare_harmless`.
        threshold: the probe's.
        n_shuffles: how many of the bank are shuffled probes.
    """
    directions = bank.scores.shape[1] - n_shuffles
    return {
        "shuffled_labels": shuffled_labels(bank.scores[:, :n_shuffles], bank.positive),
        f"random_directions_best_of_{directions}": best_direction(bank, n_shuffles),
        "bag_of_tokens": Control(None, "no token ids were given") if text is None else Control(test.of(text).auroc()),
        "triggered_but_harmless": triggered_but_harmless(test, text, comparison, threshold),
    }


def shuffled_labels(scores: Float[np.ndarray, "prompt shuffle"], positive: Bool[np.ndarray, "prompt"]) -> Control:
    """Probes refitted on permuted labels: how much AUROC the fitting alone can make up. Near 0.5 if nothing leaks."""
    values = auroc(scores, positive)
    details = {"min": float(values.min()), "max": float(values.max()), "n_shuffles": len(values)}
    return Control(mean_of(values.tolist(), 0.0, 1.0), details=details)


def best_direction(bank: LabelledScores, first: int) -> Control:
    """The best of many directions, either way round, chosen on the test prompts themselves: a hard floor.

    The interval is of the chosen direction, as if it had not been chosen.

    Args:
        bank: scores [prompt direction].
        first: the directions begin at this column.
    """
    values = auroc(bank.scores[:, first:], bank.positive)
    turned = np.maximum(values, 1 - values)
    best = int(turned.argmax())
    chosen = bank.of(bank.scores[:, first + best]).auroc()
    estimate = chosen if values[best] >= 0.5 else chosen.complement()
    return Control(estimate, details={"median": float(np.median(turned)), "n_directions": len(values)})


def compare_harmless(checked: CheckedPrompts, rows: Int[np.ndarray, "row"] | None = None) -> Comparison | str:
    """Which prompts to compare for the harmless control, or why it cannot be done: of some, by their positions there, or of the test
    prompts."""
    prompts, labels, test = checked.prompts, checked.labels, checked.splits.test if rows is None else rows
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
    test: LabelledScores, text: Float[np.ndarray, "test"] | None, comparison: Comparison | str, threshold: float
) -> Control:
    """Does the score rise with the trigger where the behaviour does not? Near 0.5: it reads behaviour; near 1: tokens."""
    if isinstance(comparison, str):
        return Control(None, comparison)
    rows, is_harmless = comparison.rows, comparison.is_harmless
    return HarmlessControl(
        test.take(rows, is_harmless).auroc(),
        n_harmless=len(np.unique(test.groups[comparison.harmless])),
        n_reference=len(np.unique(test.groups[comparison.reference])),
        twins=comparison.twins,
        bag_of_tokens_auroc=None if text is None else float(auroc(text[rows], is_harmless)),
        defecting_against_harmless=test.take(
            np.concatenate([np.flatnonzero(test.positive), comparison.harmless])
        ).auroc(),
        false_positive_rate=firing_rate(test.scores[comparison.harmless], threshold, test.groups[comparison.harmless]),
    )


def harmless_scores(
    checked: CheckedPrompts, rows: Int[np.ndarray, "row"], scores: Float[np.ndarray, "row *column"]
) -> LabelledScores | None:
    """Of some prompts, those that carry the trigger without being positive, labelled true, and what they are compared with; None where
    there are none."""
    comparison = compare_harmless(checked, rows)
    if isinstance(comparison, str):
        return None
    every = LabelledScores(scores, checked.labels[rows], checked.splits.groups[rows])
    return every.take(comparison.rows, comparison.is_harmless)


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
