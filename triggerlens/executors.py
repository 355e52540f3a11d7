"""Many tasks of one function: one after another, in processes of this machine, or on a Ray cluster. What they return is the same.

1. A task is an argument of an importable function, and its result is what that returns: a pure function of the task, or one that keeps what it makes
   under the task's name, so that a task that is done twice gives the same.
2. Every worker computes in one thread: two workers of two threads each on two cores are far slower than two of one.
3. A worker that dies (killed, out of memory, its machine gone) costs the task that it was at: that one is tried once more, then told as lost.
4. An interrupt ends the workers and the tasks that they were at.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Generic, Literal, TypeVar

from triggerlens.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
ExecutorName = Literal["serial", "processes", "ray"]
ATTEMPTS = 2
"""How often a task is tried whose worker dies."""
_PATIENCE = 5.0
"""Seconds that a cluster has to answer."""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorConfig:
    """Where tasks are computed.

    Raises:
        UserError: a number out of range, or an option of another executor.
    """

    executor: ExecutorName | None = None
    """`serial`, `processes` or `ray`; `processes` where there are several jobs and nothing is said."""
    jobs: int = 1
    """Tasks at once, each in one thread; a cluster that `address` names takes as many as it has room for."""
    address: str | None = None
    """Of a Ray cluster (`auto`, `HOST:PORT` or `ray://HOST:PORT`); a local one is started where not given."""
    gpus_per_task: float = 0.0
    """Share of a GPU that Ray sets aside for a task."""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UserError(f"--jobs must be 1 or more, found {self.jobs}")
        if self.gpus_per_task < 0:
            raise UserError(f"--gpus-per-task must not be negative, found {self.gpus_per_task}")
        if self.name == "serial" and self.jobs > 1:
            raise UserError(f"--jobs {self.jobs}: one after another is one at a time; choose --executor processes")
        if self.name != "ray" and (self.address is not None or self.gpus_per_task):
            raise UserError("--address and --gpus-per-task go with --executor ray")

    @property
    def name(self) -> ExecutorName:
        """Which executor."""
        return self.executor or ("processes" if self.jobs > 1 else "serial")


@dataclass(frozen=True, slots=True)
class Lost:
    """What came of a task whose worker died each time."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done(Generic[Task, Result]):
    """A task with what came of it."""

    task: Task
    result: Result | Lost


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], config: ExecutorConfig
) -> Iterator[Done[Task, Result]]:
    """Tasks with their results, in the order in which they are done.

    Args:
        function: importable by its name, also in another process.
        tasks: its arguments, which can be sent to another process.
        config: where they are computed.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
        Exception: whatever the function raises.
    """
    if config.name == "serial":
        return (Done(task, function(task)) for task in tasks)
    return (_on_ray if config.name == "ray" else _in_processes)(function, tasks, config)


# --- processes -----------------------------------------------------------------------------------------------------


class _Worker:
    """A process that does one task at a time; another one takes its place where it dies."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start a process, in place of one that died."""
        # A pool of one: where a process of a larger pool dies, all others lose their tasks with it.
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)
        self.pid = self.pool.submit(os.getpid)

    def do(self, function: Callable[[Any], Any], task: Any) -> Future[Any]:
        """Begin a task; where the process has died since the last one, in another."""
        try:
            return self.pool.submit(function, task)
        except BrokenProcessPool:
            self.begin()
            return self.pool.submit(function, task)

    def end(self) -> None:
        """Let it go, also where it is at a task."""
        with suppress(BrokenProcessPool, ProcessLookupError):
            os.kill(self.pid.result(), signal.SIGTERM)
        self.pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In a new process, before torch is imported there. An interrupt is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(_ONE_THREAD)


def _in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], config: ExecutorConfig
) -> Iterator[Done[Task, Result]]:
    waiting, tried = deque(enumerate(tasks)), [0] * len(tasks)
    workers = [_Worker() for _ in range(min(config.jobs, len(tasks)))]
    idle = list(workers)
    running: dict[Future[Result], tuple[_Worker, int]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                number, task = waiting.popleft()
                tried[number] += 1
                worker = idle.pop()
                running[worker.do(function, task)] = worker, number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, number = running.pop(future)
                idle.append(worker)
                try:
                    result: Result | Lost = future.result()
                except BrokenProcessPool:
                    if tried[number] < ATTEMPTS:
                        waiting.appendleft((number, tasks[number]))
                        continue
                    result = Lost("its process was killed each time (out of memory?)")
                yield Done(tasks[number], result)
    finally:
        for worker in workers:
            worker.end()


# --- Ray -----------------------------------------------------------------------------------------------------------


def _on_ray(
    function: Callable[[Task], Result], tasks: Sequence[Task], config: ExecutorConfig
) -> Iterator[Done[Task, Result]]:
    ray = _ray(config)
    errors: Any = ray.exceptions
    lost = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.RaySystemError)
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": config.gpus_per_task, "max_retries": ATTEMPTS - 1}
    options |= {"runtime_env": {"env_vars": _ONE_THREAD}}
    remote, waiting = ray.remote(**options)(_applied), deque(enumerate(tasks))
    room = config.jobs if config.address is None else max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < room:
                number, task = waiting.popleft()
                running[remote.remote(function, task)] = number
            done, _ = ray.wait(list(running))
            for reference in done:
                number = running.pop(reference)
                try:
                    result: Result | Lost = ray.get(reference)
                except lost as error:
                    result = Lost(" ".join(str(error).split())[:200])
                except errors.RayTaskError as error:
                    raise error.cause from None
                yield Done(tasks[number], result)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        ray.shutdown()


def _applied(function: Callable[[Any], Any], task: Any) -> Any:
    """What Ray calls: it takes no partial function itself."""
    return function(task)


def _ray(config: ExecutorConfig) -> Any:
    """Ray, connected.

    Raises:
        UserError: it is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--executor ray needs the package ray: pip install 'triggerlens[ray]'") from error
    local: dict[str, Any] = {"num_cpus": config.jobs, "include_dashboard": False} if config.address is None else {}
    _check_reachable(config.address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # of its warnings, the one on tasks without a GPU
    try:
        ray.init(address=config.address, log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:160]
        where = (
            "Ray could not be started here"
            if config.address is None
            else f"--address {config.address}: no Ray cluster could be reached"
        )
        raise UserError(f"{where}: {reason}") from error
    return ray


def _check_reachable(address: str | None) -> None:
    """Refuse an address at which nobody listens: Ray itself would wait for minutes.

    Raises:
        UserError: nobody does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster could be reached: {error}") from error
