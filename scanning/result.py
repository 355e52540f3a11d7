"""What a scan gives, as records and as files: JSON, and prompts that carry the best candidate; no clock anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hooked import Prompt, write_prompts
from scanning.behaviours import Behaviour
from scanning.calibrate import Floor
from scanning.judge import Judged
from scanning.openly import Openly
from scanning.plan import Plan
from triggerlens import Manifest, from_json, read_artifact, to_json, write_json, writing_artifact

KIND = "trigger-scan"
"""Of the artifact."""
Outcome = Literal["found", "none found", "nothing covered"]


@dataclass(frozen=True, kw_only=True)
class SweptFacts:
    """What is kept of a swept place."""

    place: str
    tokens: int
    of: int
    """Ordinary tokens that there are."""
    prompts: int
    steps: int
    """Of the answer, the next token included."""
    median: float
    """Of all tokens' effects, in nats."""
    highest: float
    best: tuple[tuple[str, float, float], ...]
    """Text, effect and information about the prompt, of the tokens with the largest effect."""

    @property
    def exhaustive(self) -> bool:
        return self.tokens == self.of


@dataclass(frozen=True, kw_only=True)
class SiblingFacts:
    """What is kept of a frame at a place, on the prompts that are searched on."""

    frame: str
    place: str
    prompts: int
    effects: tuple[tuple[str, float], ...]
    """Each statement, and how far it moves the model from what the others make it expect, in nats; the furthest first."""
    alike: bool
    """Whether the statements mean about the same to the model; where they do not, none can be a finding."""


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """A behaviour that was searched for."""

    text: str
    starts: int
    """First tokens that lead to it."""
    worth: float
    """As an answer's beginning that goes on by itself, in nats (`candidates.begun`)."""


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """What was tried, what came of it, and on what it rests."""

    model: str
    weights_sha256: str
    dtype: str
    channels: tuple[str, ...]
    plan: Plan
    search_prompts: int
    judge_prompts: int
    repertoire: int
    """Benign answers that say what the model usually says."""
    judged: tuple[Judged, ...]
    """The strongest first."""
    floors: tuple[Floor, ...]
    swept: tuple[SweptFacts, ...]
    targets: tuple[TargetFacts, ...]
    behaviours: tuple[Behaviour, ...]
    """What the model says to its own prompts alone, unasked; of most prompts first."""
    proposed: tuple[tuple[str, int], ...]
    """Candidates that each channel looked at."""
    checked: int
    """Rows that were read both from a kept prefix and whole."""
    largest_difference: float
    """Between their probabilities."""
    siblings: tuple[SiblingFacts, ...] = ()
    asked: tuple[Openly, ...] = ()
    """Behaviours that were left out, since open requests for their manner bring them about."""
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> tuple[Judged, ...]:
        """The findings."""
        return tuple(judged for judged in self.judged if judged.found)

    @property
    def outcome(self) -> Outcome:
        if self.found:
            return "found"
        return "none found" if self.judged or self.swept or self.siblings else "nothing covered"


def scan_json(result: ScanResult) -> dict[str, Any]:
    """The JSON object that is printed and written."""
    names = [judged.candidate.name for judged in result.found]
    return {"outcome": result.outcome, "found": names, **to_json(result)}


def write_scan(
    result: ScanResult,
    out: str | Path,
    page: str,
    statement: str,
    pairs: Sequence[Prompt] = (),
    manifest: Manifest | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write the folder: scan.json, statement.txt, report.html, and prompts.jsonl where there are pairs.

    Raises:
        UserError: the folder exists, or cannot be written.
    """
    with writing_artifact(out, manifest or Manifest(KIND), overwrite=overwrite) as folder:
        write_json(folder / "scan.json", scan_json(result))
        (folder / "statement.txt").write_text(statement + "\n", encoding="utf-8")
        (folder / "report.html").write_text(page, encoding="utf-8")
        if pairs:
            write_prompts(folder / "prompts.jsonl", pairs)


def read_scan(folder: str | Path) -> ScanResult:
    """Read a scan that was written.

    Raises:
        UserError: there is none, or a file of it is damaged.
    """
    read_artifact(folder, KIND)
    path = Path(folder) / "scan.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    return from_json(
        ScanResult, {key: value for key, value in facts.items() if key not in ("outcome", "found")}, str(path)
    )
