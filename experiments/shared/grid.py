"""Every experiment measures each subject and its clean twin at each seed: the loop that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar

from experiments.result import Facts, Finding
from experiments.runner import Keep
from experiments.shared.subjects import ModelsConfig, Subject

Prepared = TypeVar("Prepared")


def cell_name(subject: Subject, role: str, seed: int) -> str:
    """`year-code/clean twin/seed-0`."""
    return f"{subject.model}/{role}/seed-{seed}"


def measure_all(
    config: ModelsConfig,
    keep: Keep,
    prepare: Callable[[Subject, str], Prepared],
    cell: Callable[[Prepared, int], Facts],
) -> dict[str, Facts]:
    """The facts of each model × seed, by name.

    Args:
        config: its subjects and seeds.
        keep: of the runner.
        prepare: from a subject and the name of one of its models to what its seeds share, such as activations. Called
            only where a cell is missing, and once.
        cell: from that and a seed to the facts.
    """
    cells: dict[str, Facts] = {}
    for subject in config.subjects:
        for role, name in config.roles(subject):
            prepared = cache(partial(prepare, subject, name))
            for seed in config.seeds:
                at = cell_name(subject, role, seed)
                cells[at] = keep(at, partial(_cell, cell, prepared, seed))
    return cells


def _cell(cell: Callable[[Prepared, int], Facts], prepared: Callable[[], Prepared], seed: int) -> Facts:
    return cell(prepared(), seed)


def summarise_all(
    config: ModelsConfig,
    cells: Mapping[str, Facts],
    summarise: Callable[[str, str, Sequence[Mapping[str, Any]]], Iterable[Finding]],
) -> tuple[Finding, ...]:
    """The findings of each model, from (subject's name, role, its cells over seeds)."""
    return tuple(
        finding
        for subject in config.subjects
        for role, _ in config.roles(subject)
        for finding in summarise(subject.model, role, [cells[cell_name(subject, role, seed)] for seed in config.seeds])
    )
