"""Every experiment on given models measures each subject and its clean models at each seed: the loop that they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar

from experiments.experiment import Experiment
from experiments.result import Finding, Result, Specimen
from experiments.shared.subjects import ModelsConfig, Subject
from triggerlens import Facts, Keep, keep_nothing

Prepared = TypeVar("Prepared")


class ModelsExperiment(Experiment):
    """An experiment on subjects: it says how a model is prepared, what a seed measures, and what seeds add up to."""

    @staticmethod
    @abstractmethod
    def prepare(config: Any, subject: Subject, model: str, /) -> Any:
        """From a subject and the name of one of its models to what its seeds share, such as activations."""

    @staticmethod
    @abstractmethod
    def cell(config: Any, prepared: Any, seed: int, /) -> Facts:
        """From what was prepared and a seed to the facts."""

    @staticmethod
    @abstractmethod
    def summarise(specimen: Specimen, cells: Sequence[Mapping[str, Any]], /) -> Iterable[Finding]:
        """From a model and its cells over seeds to the findings."""

    def run(self, config: Any, keep: Keep = keep_nothing) -> Result:
        """Measure every model and its clean models at every seed."""
        cells = measure_all(config, keep, partial(self.prepare, config), partial(self.cell, config))
        return Result(summarise_all(config, cells, self.summarise), cells, self.notes)


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
        prepare: from a subject and the name of one of its models to what its seeds share. Called only where a cell is
            missing, and once.
        cell: from that and a seed to the facts.
    """
    cells: dict[str, Facts] = {}
    for subject in config.subjects:
        for specimen, model in config.specimens(subject):
            prepared = cache(partial(prepare, subject, model))
            for seed in config.seeds:
                name = specimen.cell_name(seed)
                cells[name] = keep(name, partial(_cell, cell, prepared, seed))
    return cells


def _cell(cell: Callable[[Prepared, int], Facts], prepared: Callable[[], Prepared], seed: int) -> Facts:
    return cell(prepared(), seed)


def summarise_all(
    config: ModelsConfig,
    cells: Mapping[str, Facts],
    summarise: Callable[[Specimen, Sequence[Mapping[str, Any]]], Iterable[Finding]],
) -> tuple[Finding, ...]:
    """The findings of each model, from its cells over seeds."""
    return tuple(
        finding
        for subject in config.subjects
        for specimen, _ in config.specimens(subject)
        for finding in summarise(specimen, [cells[specimen.cell_name(seed)] for seed in config.seeds])
    )
