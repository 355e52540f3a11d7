"""Findings of a result, as figures ask for them."""

from __future__ import annotations

from collections.abc import Sequence

from experiments import Finding, Result


def models(result: Result) -> list[str]:
    """The models under test, in order."""
    return list(dict.fromkeys(one.model for one in result.findings))


def methods(result: Result, measure: str) -> list[str]:
    """The methods that a measure was taken with, in order."""
    return list(dict.fromkeys(one.method for one in result.findings if one.measure == measure))


def series_values(result: Result, model: str, role: str, measure: str, rows: Sequence[str]) -> dict[str, Finding]:
    """The findings of one model and measure, by the names of the rows that stand for `methods(result, measure)`."""
    found = {one.method: one for one in result.of_measure(measure, model, role)}
    names = methods(result, measure)
    return {row: found[name] for row, name in zip(rows, names, strict=True) if name in found}
