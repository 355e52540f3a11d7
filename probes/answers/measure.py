"""A probe of answers, token by token: the threshold for watching, AUROC after so many tokens, and what fires before the answers part.

1. The running score of a prompt is that of the answer's tokens so far; where the prompt is read too, behind the prompt's, of which the last is the
   first that counts: what is said there is said before anything is written.
2. The threshold for watching is frozen on the highest running score of each calibration prompt, midway between negatives and positives
   but never lower than what the negatives' false-positive rate asks for: what is bounded is the rate of answers that fire anywhere.
3. A test positive and its untriggered twin share their answers' first tokens. What fires within these fires before anything has been
   written that the twin would not have been told too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.answers.result import AnswerPoint, AnswerResult, Parting
from probes.controls import Comparison, bag_of_tokens
from probes.detection import LabelledScores, firing_rate, midway_threshold
from probes.evaluate import false_positives
from probes.inputs import Activations, Answers, CheckedPrompts
from probes.poolings.base import Running
from probes.probe import LinearProbe
from probes.result import Control
from triggerlens import UserError, auroc

AT_ONCE = 64
"""Prompts whose running scores are computed together."""

Curves = list[np.ndarray]
"""Running scores [token] at the answer's tokens, of each prompt; where the prompt is read too, at the prompt's last token before them."""


def watch_threshold(
    probe: LinearProbe,
    activations: Activations,
    rows: Int[np.ndarray, "row"],
    positive: Bool[np.ndarray, "row"],
    answers: Answers,
    fpr: float,
) -> float | None:
    """Midway between the highest running scores of the negatives' answers, of which at most the share `fpr` may fire, and those of the
    positives (`probes.detection.midway_threshold`); None of a pooling that has no running form.

    Raises:
        UserError: an activation is NaN or infinite.
    """
    try:
        probe.running()
    except UserError:
        return None
    curves = running_scores(probe, activations, rows, answers)
    highest = np.array([curve.max() for curve in curves])
    return midway_threshold(highest[~positive], highest[positive], fpr)


def running_scores(
    probe: LinearProbe, activations: Activations, rows: Int[np.ndarray, "row"], answers: Answers
) -> Curves:
    """The running scores of some prompts, at the probe's best site.

    Raises:
        UserError: the pooling has no running form.
    """
    probe.running()
    curves: Curves = [np.empty(0)] * len(rows)
    waiting: list[tuple[int, Tensor]] = []
    for position, x in activations.tokens(rows, slice(probe.best, probe.best + 1)):
        waiting.append((position, probe.channels(x[:, 0]).cpu()))
        if len(waiting) == AT_ONCE:
            _run(probe.running(), waiting, curves)
            waiting = []
    if waiting:
        _run(probe.running(), waiting, curves)
    skipped = [answers.skipped[row] for row in rows.tolist()]
    return [curve[max(skip - 1, 0) :] for curve, skip in zip(curves, skipped, strict=True)]


def _run(running: Running, waiting: Sequence[tuple[int, Tensor]], curves: list[np.ndarray]) -> None:
    """Fill in the running scores of some prompts, together, from the scores of their tokens [token channel]."""
    padded = torch.nn.utils.rnn.pad_sequence([channels for _, channels in waiting])
    scores = torch.stack([torch.as_tensor(running.update(channels)) for channels in padded]).numpy()
    for column, (position, channels) in enumerate(waiting):
        curves[position] = scores[: len(channels), column]


def answer_text(
    answers: Answers,
    fit: Int[np.ndarray, "fit"],
    labels: Bool[np.ndarray, "prompt"],
    rows: Int[np.ndarray, "test"],
    test: LabelledScores,
) -> Control:
    """A classifier on counts of the answer's tokens: does the probe beat reading what the model wrote?"""
    return Control(test.of(bag_of_tokens(answers.ids, fit, labels, rows)).auroc())


def measure_answers(
    probe: LinearProbe,
    activations: Activations,
    checked: CheckedPrompts,
    answers: Answers,
    test: LabelledScores,
    comparison: Comparison | str,
) -> AnswerResult:
    """Everything that is measured of answers alone."""
    rows = checked.splits.test
    if probe.watch_threshold is None:
        reason = f"a probe at {probe.aggregation} cannot be read before the answer is whole"
        return AnswerResult((), None, reason, None, None, {})
    curves = running_scores(probe, activations, rows, answers)
    early = int(probe.read in ("both", "onset"))
    highest = np.array([curve.max() for curve in curves])
    fired = np.array([_fired_after(curve, probe.watch_threshold) for curve in curves]) - early
    shared = shared_tokens(checked, answers.ids)
    return AnswerResult(
        curve=_curve([curve[early:] for curve in curves], answers, checked, test, comparison),
        parting=_parting(fired, shared, test.groups) if shared else None,
        reason=None if shared else "no test positive has an untriggered twin that is a negative (`pair`)",
        threshold=probe.watch_threshold,
        detected=firing_rate(highest[test.positive], probe.watch_threshold, test.groups[test.positive]),
        false_positives=false_positives(checked, test.of(highest), probe.watch_threshold),
    )


def _curve(
    curves: Curves, answers: Answers, checked: CheckedPrompts, test: LabelledScores, comparison: Comparison | str
) -> tuple[AnswerPoint, ...]:
    """AUROC of the running score after 1, 2, 4, … tokens, and after all."""
    longest = max(map(len, curves))
    counts = [2**power for power in range(longest.bit_length()) if 2**power < longest] + [longest]
    points = []
    for count in counts:
        scores = test.of(np.array([curve[min(count, len(curve)) - 1] for curve in curves]))
        begun = [ids[:count] for ids in answers.ids]
        text = bag_of_tokens(begun, checked.splits.fit, checked.labels, checked.splits.test)
        harmless = None
        if not isinstance(comparison, str):
            harmless = float(auroc(scores.scores[comparison.rows], comparison.is_harmless))
        longer = sum(len(curve) > count for curve in curves)
        points.append(AnswerPoint(count, scores.auroc(), float(auroc(text, test.positive)), harmless, longer))
    return tuple(points)


def _fired_after(curve: Float[np.ndarray, "token"], threshold: float) -> float:
    """How many scores there were when one first passed the threshold; infinite where none does."""
    passed = curve > threshold
    return float(passed.argmax()) + 1 if passed.any() else np.inf


def shared_tokens(checked: CheckedPrompts, ids: Sequence[Sequence[int]]) -> dict[int, int]:
    """Of each test positive that has an untriggered negative twin in the test split, by its position there: with how many tokens both
    answers begin."""
    rows = checked.splits.test.tolist()
    twins: dict[str, int] = {}
    for row in rows:
        prompt = checked.prompts[row]
        if prompt.pair is not None and not prompt.triggered and not checked.labels[row]:
            twins.setdefault(prompt.pair, row)
    shared = {}
    for position, row in enumerate(rows):
        twin = twins.get(checked.prompts[row].pair or "")
        if checked.labels[row] and twin is not None:
            shared[position] = _common(ids[row], ids[twin])
    return shared


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    return next(
        (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )


def _parting(fired: Float[np.ndarray, "test"], shared: dict[int, int], groups: Int[np.ndarray, "test"]) -> Parting:
    positions, lengths = list(shared), np.array(list(shared.values()))
    early, own = lengths - fired[positions], groups[positions]
    before, by_first = (firing_rate(early, -more - 0.5, own) for more in (0, 1))
    return Parting(tuple(sorted(shared.values())), len(np.unique(own)), before, by_first)
