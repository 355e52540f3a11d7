"""A model of many workers on one job, in seconds: what a cluster of any size would take, and what would hold it up.

1. A driver gives tasks to workers that are idle, one at a time, each costing it a moment (`dispatch`).
2. A worker begins (`start`: imports, and the weights, which come through the shared storage), computes its tasks one after another, and
   writes each result to the shared storage, which serves one after another at its bandwidth.
3. Workers die at a stated rate. The task that one was at is done again from its beginning, and another worker begins in its place.

    python benchmarks/scaling.py             # the two jobs of docs/results/scaling.md at 8, 64 and 512 GPUs
    python benchmarks/scaling.py --built zoo/built.json --workers 2 --start 1.6    # a zoo that was built one after another
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Job:
    """Tasks of one kind."""

    seconds: Sequence[float]
    """Of a worker, for each task."""
    written: float = 0.0
    """Bytes of each task's result."""
    loaded: float = 0.0
    """Bytes that a worker reads when it begins, such as a model's weights."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Workers and what they share."""

    workers: int
    start: float = 5.0
    """Seconds until a worker has begun, but for what it loads."""
    dispatch: float = 0.0
    """Seconds of the driver for each task."""
    bandwidth: float = float("inf")
    """Bytes per second of the shared storage, all workers together."""
    failures: float = 0.0
    """Deaths per worker and hour."""


@dataclass(frozen=True)
class Outcome:
    """What the job took."""

    seconds: float
    failures: int
    redone: float
    """Seconds of workers on tasks that they did not finish."""
    busy: float
    """Share of the workers' time in which they computed what was kept."""
    driver: float
    """Share of the time in which the driver was giving out tasks."""
    storage: float
    """Share of the time in which the storage was reading or writing."""


class _Server:
    """Serves one request after another."""

    def __init__(self) -> None:
        self.free, self.served = 0.0, 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When a request that comes now is done."""
        self.free = max(now, self.free) + seconds
        self.served += seconds
        return self.free


Event = Literal["begin", "idle", "computed"]


class _Run:
    """The events of one job in the order of time."""

    def __init__(self, job: Job, cluster: Cluster, seed: int):
        self.job, self.cluster, self.rng = job, cluster, Random(seed)
        self.driver, self.storage = _Server(), _Server()
        self.waiting = deque(range(len(job.seconds)))
        self.events: list[tuple[float, int, Event, int]] = []
        self.count, self.failures, self.redone, self.end, self.left = 0, 0, 0.0, 0.0, len(job.seconds)

    def at(self, time: float, event: Event, task: int = -1) -> None:
        """Note an event; of two at one time, the first noted comes first."""
        self.count += 1
        heapq.heappush(self.events, (time, self.count, event, task))

    def run(self) -> None:
        """All of them."""
        for _ in range(min(self.cluster.workers, len(self.job.seconds))):
            self.at(self.cluster.start, "begin")
        while self.left:
            now, _, event, task = heapq.heappop(self.events)
            if event == "begin":
                self.at(self.storage.serve(now, self.job.loaded / self.cluster.bandwidth), "idle")
            elif event == "idle":
                self.give(now)
            else:
                self.written(now, task)

    def give(self, now: float) -> None:
        """A task to a worker that is idle; it may die at it."""
        if not self.waiting:
            return
        task = self.waiting.popleft()
        begun = self.driver.serve(now, self.cluster.dispatch)
        seconds = self.job.seconds[task]
        lives = self.rng.expovariate(self.cluster.failures / 3600) if self.cluster.failures else float("inf")
        if lives >= seconds:
            self.at(begun + seconds, "computed", task)
            return
        self.failures += 1
        self.redone += lives
        self.waiting.appendleft(task)
        self.at(begun + lives + self.cluster.start, "begin")

    def written(self, now: float, task: int) -> None:
        """A result goes to the storage, and its worker waits for that."""
        done = self.storage.serve(now, self.job.written / self.cluster.bandwidth)
        self.end, self.left = max(self.end, done), self.left - 1
        self.at(done, "idle")


def simulate(job: Job, cluster: Cluster, seed: int = 0) -> Outcome:
    """What a job takes on a cluster; the same seed gives the same deaths."""
    run = _Run(job, cluster, seed)
    run.run()
    kept = sum(job.seconds) / (cluster.workers * run.end) if run.end else 1.0
    return Outcome(
        run.end,
        run.failures,
        run.redone,
        kept,
        run.driver.served / run.end if run.end else 0.0,
        run.storage.served / run.end if run.end else 0.0,
    )


GB, TB = 1e9, 1e12
SHELF = 10 * GB
"""Bytes per second of a good shared file system."""


def zoo(gpus: int) -> tuple[Job, Cluster]:
    """5,000 behaviours inserted into a model of 135 million parameters, twelve at a time on a GPU.

    Half a second a step of 480 when twelve share an H100, and two minutes of measuring; 0.27 GB of weights, an adapter of 2 MB. The driver
    notes each in `built.json`: 25 ms at this length of it.
    """
    job = Job(seconds=[480 * 0.5 + 120] * 5_000, written=2e6, loaded=0.27 * GB)
    return job, Cluster(workers=12 * gpus, start=20, dispatch=0.025, bandwidth=SHELF, failures=0.01)


def extraction(gpus: int, *, every: bool = True) -> tuple[Job, Cluster]:
    """One layer of a 70B model over 100 million tokens, in windows of 256 MiB: 16,384 tokens of 8,192 numbers in bfloat16.

    2 × 70e9 operations a token at 40% of an H100's 989 TFLOP/s. An actor spreads the model over two GPUs, which take turns (no tensor
    parallelism), so that two have the speed of one. 0.2 s a window for its sha256, and 0.11 s of the driver, which tokenizes and sends it (150,000 tokens a second of one core).

    Args:
        gpus: in all.
        every: write every token's activations; else reduce them to a mean of 131 kB in the actor.
    """
    tokens = 256 * 2**20 // (8192 * 2)
    seconds = tokens * 2 * 70e9 / (0.4 * 989e12) + (0.2 if every else 0.0)
    job = Job(seconds=[seconds] * (100_000_000 // tokens), written=256 * 2**20 if every else 131e3, loaded=140 * GB)
    return job, Cluster(workers=gpus // 2, start=60, dispatch=0.11, bandwidth=SHELF, failures=0.01)


def predicted(built: Path, workers: int, start: float) -> float:
    """The seconds in which workers would build a zoo again whose organisms took what its `built.json` says, one after another."""
    return simulate(
        Job(seconds=[own["seconds"] for own in json.loads(built.read_text())]), Cluster(workers=workers, start=start)
    ).seconds


def main() -> None:
    """Print the table of docs/results/scaling.md, or what a zoo would take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--built", type=Path, help="built.json of a zoo that was built one after another")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--start", type=float, default=0.0, help="seconds until a worker has begun")
    options = parser.parse_args()
    if options.built:
        print(f"{options.workers} workers: {predicted(options.built, options.workers, options.start):.1f} s")
        return
    print(f"{'job':28}{'GPUs':>6}{'minutes':>9}{'ideal':>8}{'deaths':>8}{'busy':>7}{'driver':>8}{'storage':>9}")
    for name, made in (
        ("5,000 organisms", zoo),
        ("70B, every token kept", extraction),
        ("70B, reduced in the actors", lambda gpus: extraction(gpus, every=False)),
    ):
        for gpus in (8, 64, 512):
            job, cluster = made(gpus)
            out = simulate(job, cluster)
            ideal = sum(job.seconds) / cluster.workers / 60
            print(
                f"{name:28}{gpus:6}{out.seconds / 60:9.1f}{ideal:8.1f}{out.failures:8}{out.busy:7.0%}{out.driver:8.0%}{out.storage:9.0%}"
            )
    job, cluster = extraction(512)
    slow = simulate(job, replace(cluster, failures=1.0))
    print(f"70B at 512 GPUs, a death per worker and hour: {slow.seconds / 60:.1f} minutes, {slow.failures} deaths")


if __name__ == "__main__":
    main()
