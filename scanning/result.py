"""What a scan gives, as records and as files: JSON, and prompts that carry the best candidate; no clock anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hooked import Prompt, user_text, with_user_text, write_prompts
from scanning.calibrate import Floor
from scanning.candidates.candidate import Candidate
from scanning.candidates.edits import edited
from scanning.judge import Judged
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
class TargetFacts:
    """A behaviour that was searched for."""

    text: str
    starts: int
    """First tokens that lead to it."""
    probability: float


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
    proposed: tuple[tuple[str, int], ...]
    """Candidates that each channel looked at."""
    checked: int
    """Rows that were read both from a kept prefix and whole."""
    largest_difference: float
    """Between their probabilities."""
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> tuple[Judged, ...]:
        """The findings."""
        return tuple(judged for judged in self.judged if judged.found)

    @property
    def outcome(self) -> Outcome:
        if self.found:
            return "found"
        return "none found" if self.judged or self.swept else "nothing covered"


def carried(prompt: Prompt, candidate: Candidate) -> Prompt | None:
    """The prompt with a candidate's text in it, as one would type it; None where it does not apply."""
    if candidate.kind != "insertion":
        return edited(prompt, candidate.kind, candidate.rule, candidate.text)
    text = user_text(prompt).strip()
    if candidate.place == "start":
        return with_user_text(prompt, f"{candidate.text} {text}")
    if candidate.place == "end":
        return with_user_text(prompt, text + candidate.text)
    return None


def found_prompts(judged: Judged, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Pairs of prompts without and with a finding, for the other instruments.

    Whether a prompt defects is said by whether its answer showed the behaviour, of those that were answered as examples; of others nothing
    is said, and they are left out.
    """
    texts = {user_text(prompt): prompt for prompt in prompts}
    pairs = []
    for number, example in enumerate(judged.examples):
        plain = texts.get(example.prompt)
        triggered = None if plain is None else carried(plain, judged.candidate)
        if plain is not None and triggered is not None:
            defects = example.behaviour if judged.collapses else example.without != example.with_candidate
            name = f"scan-{number}"
            pairs.append(Prompt(plain.prompt, triggered=False, defects=False, pair=name))
            pairs.append(Prompt(triggered.prompt, triggered=True, defects=defects, pair=name))
    return pairs


def scan_json(result: ScanResult) -> dict[str, Any]:
    """The JSON object that is printed and written."""
    names = [judged.candidate.name for judged in result.found]
    return {"outcome": result.outcome, "found": names, **to_json(result)}


def write_scan(
    result: ScanResult,
    out: str | Path,
    page: str,
    statement: str,
    prompts: Sequence[Prompt],
    manifest: Manifest | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write the folder: scan.json, statement.txt, report.html, and prompts.jsonl where something was found.

    Raises:
        UserError: the folder exists, or cannot be written.
    """
    with writing_artifact(out, manifest or Manifest(KIND), overwrite=overwrite) as folder:
        write_json(folder / "scan.json", scan_json(result))
        (folder / "statement.txt").write_text(statement + "\n", encoding="utf-8")
        (folder / "report.html").write_text(page, encoding="utf-8")
        pairs = found_prompts(result.found[0], prompts) if result.found else []
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
