"""The cells of one experiment, shared by workers.

1. Each worker runs the whole experiment. A cell that is kept is read; one that nobody is at is computed and kept; one that another worker is
   at stands open, and the worker goes on to the next.
2. Where an experiment wants the facts of an open cell, that worker has done what it can.
3. The experiment is then run once more where it was asked for, which finds its cells kept.

So an experiment needs to know nothing of workers, as long as it asks for all cells before it reads what is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.experiment import Experiment
from triggerlens import Busy, Cells, Facts


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


def compute_shared(experiment: Experiment, config: Any, folder: Path, finished: Path) -> None:
    """In a worker: compute cells that nobody is at, until there is none.

    Args:
        experiment: which.
        config: of it.
        folder: of the cells.
        finished: what is there once the run's result is.
    """
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
