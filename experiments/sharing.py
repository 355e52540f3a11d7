"""The cells of one experiment, shared by workers.

1. Each worker runs the whole experiment. A cell that is kept is read; one that nobody is at is computed and kept; one that another worker is
   at stands open, and the worker goes on to the next.
2. Where an experiment wants the facts of an open cell, that worker has done what it can.
3. The experiment is then run once more where it was asked for, which finds its cells kept.

So an experiment needs to know nothing of workers, as long as it asks for all cells before it reads what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from experiments.experiment import Experiment
from triggerlens import Busy, Cells, ExecutorConfig, Facts, run_tasks


class Elsewhere(Exception):
    """A cell's facts are asked for that another worker is at."""


class Finished(Exception):
    """Another driver has finished the whole run, and dropped its cells."""


class OpenCell(Facts):
    """The facts of a cell that another worker is at."""

    def __getitem__(self, key: str) -> Any:
        raise Elsewhere(key)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise Elsewhere

    get = items = keys = values = __iter__ = __len__ = __contains__ = __or__ = __ror__ = copy = _refuse


def share_cells(
    experiment: Experiment,
    config: Any,
    folder: Path,
    finished: Path,
    executor: ExecutorConfig,
) -> None:
    """Compute what is missing of an experiment's cells.

    Args:
        experiment: which.
        config: of it.
        folder: of the cells; workers on other machines must see it under the same path.
        finished: what is there once the run's result is.
        executor: where.

    Raises:
        UserError: as the executor, and as the experiment.
    """
    ended: list[int] = []

    for done in run_tasks(
        partial(_help, experiment, config, folder.resolve(), finished.resolve()), _helpers(ended), executor
    ):
        ended.append(done.task)


def _helpers(ended: list[int]) -> Iterator[int]:
    """As many as there is room for, until one has found nothing more to do."""
    for number in count():
        if ended:
            return
        yield number


def _help(experiment: Experiment, config: Any, folder: Path, finished: Path, number: int) -> None:
    """In a worker: compute cells that nobody is at, until there is none."""
    cells = Cells(folder, wait=False)

    def keep(name: str, compute: Callable[[], Facts]) -> Facts:
        try:
            return cells.keep(name, partial(unless_finished, finished, compute))
        except Busy:
            return OpenCell()

    try:
        experiment.run(config, keep)
    except (Elsewhere, Finished):
        return


def unless_finished(finished: Path, compute: Callable[[], Facts]) -> Facts:
    """Compute, where no other driver has finished the run meanwhile.

    Raises:
        Finished: one has.
    """
    if finished.exists():
        raise Finished
    return compute()
