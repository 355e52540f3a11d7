"""What a probe of answers shows: how early it fires, and how often over a whole answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from triggerlens import Estimate, to_json


@dataclass(frozen=True, slots=True)
class AnswerPoint:
    """The probe after so many tokens of each test answer (all of those that are shorter)."""

    tokens: int
    """How many tokens of each answer."""
    auroc: Estimate
    """Of the running score by then, on test prompts."""
    text_auroc: float
    """Of a classifier on the counts of the same tokens: what can be read off the page by then."""
    harmless_auroc: float | None
    """Triggered-but-harmless prompts against untriggered ones; None where there are none."""
    longer: int
    """Test answers with more tokens than these."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Where the answers of a pair part, and whether the probe fires before it."""

    shared: tuple[int, ...]
    """Of each test positive whose untriggered twin is a negative, ascending: the number of tokens with which both answers begin."""
    pairs: int
    """How many pairs of prompts these are answers to."""
    before: Estimate
    """Share of these positives on which the probe, watching, has fired by the last shared token."""
    by_first: Estimate
    """Share on which it has fired by the first token that differs."""

    @property
    def median(self) -> int:
        """The median number of shared tokens."""
        return self.shared[len(self.shared) // 2]

    def to_json(self) -> dict[str, Any]:
        """The record as `metrics.json` has it."""
        return {
            "n_pairs": self.pairs,
            "shared_tokens": {"median": self.median, "fewest": self.shared[0], "most": self.shared[-1]},
            "fired_before": to_json(self.before),
            "fired_by_first_different_token": to_json(self.by_first),
        }


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """A probe of answers on test prompts."""

    curve: tuple[AnswerPoint, ...]
    """After 1, 2, 4, … tokens, up to the longest answer; none where the pooling has no running form."""
    parting: Parting | None
    """Where positive and negative answers part; None where `reason` says why not."""
    reason: str | None
    """Why the prompts or the pooling cannot give what is missing."""
    threshold: float | None
    """That of watching (`LinearProbe.watch_threshold`)."""
    detected: Estimate | None
    """Test positives on which the running score passes it anywhere in the answer."""
    false_positives: Mapping[str, Estimate]
    """Test negatives on which it does, by dataset, the worst first."""

    def to_json(self) -> dict[str, Any]:
        """The record as `metrics.json` has it."""
        return {
            "curve": [
                {
                    "tokens": point.tokens,
                    "auroc": point.auroc.value,
                    "auroc_ci": point.auroc.interval,
                    "bag_of_answer_tokens_auroc": point.text_auroc,
                    "triggered_but_harmless_auroc": point.harmless_auroc,
                    "longer": point.longer,
                }
                for point in self.curve
            ],
            "parting": None if self.parting is None else self.parting.to_json(),
            "reason": self.reason,
            "watching": {
                "threshold": self.threshold,
                "detected": None if self.detected is None else to_json(self.detected),
                "false_positives": {name: to_json(rate) for name, rate in self.false_positives.items()},
            },
        }
