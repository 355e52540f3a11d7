"""Workers share the cells of an experiment: the same result, and no cell twice."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from importlib import util
from pathlib import Path

import pytest
import worked_experiment

from experiments import EXPERIMENTS, run_experiment
from experiments.sharing import Elsewhere, OpenCell
from triggerlens import Cells, ExecutorConfig, UserError, cells_folder

TWO, RAY = ExecutorConfig(jobs=2), ExecutorConfig(executor="ray", jobs=2)
needs_ray = [pytest.mark.skipif(util.find_spec("ray") is None, reason="needs the package ray"), pytest.mark.slow]
TOSS = worked_experiment.Toss()
RUN = """
import sys
from experiments import EXPERIMENTS, run_experiment
from worked_experiment import Toss, TossConfig
EXPERIMENTS["toss"] = Toss()
if __name__ == "__main__":
    run_experiment(Toss(), TossConfig(seeds=tuple(range(20)), journal=sys.argv[1]), sys.argv[2])
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    paths = [str(Path(worked_experiment.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setitem(EXPERIMENTS, "toss", TOSS)


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """Under one name, so that the configuration, and with it the key, is the same for all."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "journal"


def config(journal, seeds=8, **options):
    return TOSS.Config(seeds=tuple(range(seeds)), journal=str(journal), **options)


def computed(journal):
    """How often each cell was computed, and by which processes."""
    lines = [line.split() for line in journal.read_text().splitlines()]
    journal.unlink()
    return Counter(int(seed) for seed, _ in lines), {int(pid) for _, pid in lines}


ONE_WORKER = ExecutorConfig(executor="processes")  # each takes seconds to import torch


@pytest.mark.parametrize(
    "executor", [ONE_WORKER, pytest.param(TWO, marks=pytest.mark.slow), pytest.param(RAY, marks=needs_ray)]
)
def test_the_result_is_the_same_and_no_cell_is_computed_twice(journal, tmp_path, executor):
    _, one = run_experiment(TOSS, config(journal), tmp_path / "one")
    assert computed(journal) == (Counter(range(8)), {os.getpid()})
    _, shared = run_experiment(TOSS, config(journal), tmp_path / "shared", executor)
    times, processes = computed(journal)
    assert times == Counter(range(8))
    assert 1 <= len(processes - {os.getpid()}) == len(processes) <= 2, "workers, and not this process"
    assert (shared / "result.json").read_bytes() == (one / "result.json").read_bytes()
    assert [path.name for path in (tmp_path / "shared" / "toss").iterdir()] == [shared.name]


@pytest.mark.slow
def test_what_a_cell_raises_is_raised_and_the_others_stay(journal, tmp_path):
    with pytest.raises(ValueError, match="seed 5"):
        run_experiment(TOSS, config(journal, raises=5), tmp_path, TWO)
    (folder,) = (tmp_path / "toss").iterdir()
    assert folder == cells_folder(folder.with_name(folder.name[1:].removesuffix(".cells")))
    assert len(list(folder.glob("*/cell.json"))) >= 5


@pytest.mark.slow
def test_two_drivers_at_once_compute_no_cell_twice(journal, tmp_path):
    command = [sys.executable, "-c", RUN, str(journal), str(tmp_path / "results")]
    drivers = [subprocess.Popen(command) for _ in range(2)]
    assert [driver.wait() for driver in drivers] == [0, 0]
    assert computed(journal)[0] == Counter(range(20))


def test_a_run_that_another_driver_has_finished_meanwhile_is_read(journal, tmp_path, monkeypatch):
    """It drops its cells when it has, and locks among them."""
    _, one = run_experiment(TOSS, config(journal), tmp_path / "one")

    def finished_elsewhere(cells, name, compute):
        shutil.copytree(one, tmp_path / "two" / "toss" / one.name)
        raise UserError("the lock is gone")

    monkeypatch.setattr(Cells, "keep", finished_elsewhere)
    result, two = run_experiment(TOSS, config(journal), tmp_path / "two")
    assert (result.key, two.name) == (one.name, one.name)
    assert [path.name for path in two.parent.iterdir()] == [one.name]


def test_an_open_cell_has_no_facts():
    cell = OpenCell()
    for look in (lambda: cell["a"], lambda: cell.get("a"), lambda: list(cell), lambda: "a" in cell, lambda: dict(cell)):
        with pytest.raises(Elsewhere):
            look()
