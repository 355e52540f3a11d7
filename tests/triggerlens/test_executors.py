"""Tasks give the same wherever they are computed; a worker that dies costs its own task, and nothing is left running."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import util
from multiprocessing import active_children
from pathlib import Path

import pytest
import worked_tasks

from triggerlens import Busy, Done, ExecutorConfig, Lost, UserError, locked, run_held, run_tasks

needs_ray = pytest.mark.skipif(util.find_spec("ray") is None, reason="needs the package ray")
SERIAL, TWO = ExecutorConfig(), ExecutorConfig(jobs=2)
RAY = ExecutorConfig(executor="ray", jobs=2)
ELSEWHERE = [pytest.param(TWO, id="processes"), pytest.param(RAY, id="ray", marks=[needs_ray, pytest.mark.slow])]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Ray's workers find modules as a fresh Python does."""
    paths = [str(Path(worked_tasks.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # a worker must not take it over
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def by_task(done):
    return {own.task: own.result for own in done}


def test_one_after_another_is_in_order_and_only_as_far_as_one_looks():
    looked = run_tasks(worked_tasks.failing, [0, 1, 2], SERIAL)
    assert [next(looked), next(looked)] == [Done(0, 0), Done(1, 1)]
    with pytest.raises(ValueError, match="two"):
        next(looked)


@pytest.mark.parametrize("config", ELSEWHERE)
def test_results_are_those_of_one_process_and_workers_have_one_thread(config, tmp_path):
    assert by_task(run_tasks(partial(pow, 2), [3, 4, 5], config)) == {3: 8, 4: 16, 5: 32}
    assert {own.result for own in run_tasks(worked_tasks.threads, [0, 1], config)} == {"1"}
    with pytest.raises(ValueError, match="two"):
        list(run_tasks(worked_tasks.failing, [1, 2], config))


@pytest.mark.parametrize("config", ELSEWHERE)
def test_a_worker_that_dies_costs_the_task_that_it_was_at(config, tmp_path):
    folders = [tmp_path / name for name in ("dies", "lives")]
    for folder in folders:
        folder.mkdir()
    done = by_task(run_tasks(worked_tasks.killed_once, [str(folder) for folder in folders], config))
    assert sorted(done.values()) == ["dies", "lives"]
    assert [(folder / "tries").read_text() for folder in folders] == ["xx", "x"]
    lost = by_task(run_tasks(worked_tasks.killed_always, [0, 1, 2], config))
    assert (lost[0], lost[2]) == (0, 2)
    assert isinstance(lost[1], Lost)


@pytest.mark.parametrize("config", [SERIAL, TWO])
def test_a_task_that_another_driver_is_at_is_asked_for_again_after_the_others(config, tmp_path):
    (tmp_path / "0").touch()
    done = by_task(run_tasks(partial(worked_tasks.busy_once, str(tmp_path)), range(6), config))
    assert done == dict.fromkeys(range(6), "done")
    begun = (tmp_path / "begun").read_text().split()
    assert begun.count("0") == 2
    before = begun[: len(begun) - 1 - begun[::-1].index("0")]
    # What was just handed to the other worker may note its beginning a moment later.
    assert len(set(before) - {"0"}) >= 5 - (config.jobs - 1)


@pytest.mark.parametrize("config", [SERIAL, *ELSEWHERE])
def test_a_worker_holds_what_it_began_with(config):
    done = list(run_held(worked_tasks.begun, worked_tasks.counted, range(6), config))
    by_worker = [[count for pid, count in (own.result for own in done) if pid == worker] for worker in pids_of(done)]
    assert len(by_worker) <= config.jobs
    assert [sorted(counts) for counts in by_worker] == [list(range(1, len(own) + 1)) for own in by_worker]


def pids_of(done):
    return {pid for pid, _ in (own.result for own in done)}


def test_tasks_are_taken_as_workers_are_there_for_them():
    taken = []
    done = run_tasks(worked_tasks.squared, (taken.append(number) or number for number in range(100)), TWO)
    next(done)
    assert len(taken) < 10
    done.close()


def test_a_driver_that_is_killed_leaves_no_worker(tmp_path):
    code = (
        "import worked_tasks; from triggerlens import *\n"
        f"if __name__ == '__main__': list(run_tasks(worked_tasks.slow, [{str(tmp_path)!r}], ExecutorConfig(executor='processes')))"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: list(tmp_path.iterdir()))
    driver.kill()
    driver.wait()
    (worker,) = (int(path.name) for path in tmp_path.iterdir())
    wait_until(
        lambda: not Path(f"/proc/{worker}").exists() or "State:\tZ" in Path(f"/proc/{worker}/status").read_text()
    )


def wait_until(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_interrupt_ends_the_workers_and_what_they_are_at(tmp_path):
    """In a process of its own, whose manner with interrupts nothing else has changed; as from a terminal, its workers get the signal too."""
    code = (
        "import signal, worked_tasks; from triggerlens import *\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"    next(run_tasks(worked_tasks.slow, [{str(tmp_path)!r}] * 3, ExecutorConfig(jobs=2)))"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    os.killpg(driver.pid, signal.SIGINT)
    _, told = driver.communicate(timeout=40)  # a task takes 60 seconds, and is not waited for
    assert told.strip().splitlines()[-1] == "KeyboardInterrupt"
    running = [int(path.name) for path in tmp_path.iterdir()]
    assert len(running) == 2
    for pid in running:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_nothing_is_said_where_all_goes_well():
    code = (
        "import worked_tasks; from triggerlens import *\n"
        "if __name__ == '__main__': print(len(list(run_tasks(worked_tasks.with_a_bar, [3, 4, 5], ExecutorConfig(jobs=2)))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_a_task_that_raises_leaves_nothing_running():
    before = set(active_children())
    with pytest.raises(ValueError, match="two"):
        list(run_tasks(worked_tasks.failing, [2, 1], TWO))
    assert not set(active_children()) - before


def test_a_lock_is_held_by_one_and_stays_let_go(tmp_path):
    with locked(tmp_path / "lock"), pytest.raises(Busy), locked(tmp_path / "lock", wait=False):
        pass
    with locked(tmp_path / "lock", wait=False):
        pass
    with pytest.raises(UserError, match="cannot be locked"), locked(tmp_path / "lock" / "lock"):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "--jobs must be 1 or more, found 0"),
        ({"executor": "serial", "jobs": 2}, "choose --executor processes"),
        ({"address": "auto"}, "go with --executor ray"),
        ({"executor": "processes", "gpus_per_task": 0.5}, "go with --executor ray"),
        ({"executor": "ray", "gpus_per_task": -1.0}, "must not be negative"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ExecutorConfig(**options)


@pytest.mark.skipif(util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_one_line_says_how_to_get_it():
    with pytest.raises(UserError, match="needs the package ray: pip install 'triggerlens\\[ray\\]'"):
        next(run_tasks(worked_tasks.squared, [1], RAY))


@needs_ray
@pytest.mark.slow
def test_gpus_that_are_not_there_are_not_waited_for():
    import ray

    with pytest.raises(UserError, match=r"--gpus-per-task 0\.5: Ray has 0 GPUs there"):
        next(run_tasks(worked_tasks.squared, [1], ExecutorConfig(executor="ray", gpus_per_task=0.5)))
    assert not ray.is_initialized()


@needs_ray
@pytest.mark.slow
def test_a_ray_that_was_connected_before_stays_connected():
    import ray

    ray.init(num_cpus=2, include_dashboard=False)
    try:
        assert by_task(run_tasks(worked_tasks.squared, [2, 3], RAY)) == {2: 4, 3: 9}
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@needs_ray
def test_an_address_without_a_cluster_is_one_line():
    with pytest.raises(UserError, match=r"--address 127\.0\.0\.1:1: no Ray cluster could be reached"):
        next(run_tasks(worked_tasks.squared, [1], ExecutorConfig(executor="ray", address="127.0.0.1:1")))
