"""What an executor's tasks are done by: processes of this machine, or actors of a Ray cluster. Both are driven alike.

1. A worker does one task at a time, in one thread, and keeps what it holds (a model) from task to task.
2. It ends with the process that began it, however that ends.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from time import monotonic
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from triggerlens.errors import UserError

_PATIENCE = 5.0
"""Seconds that a cluster has to answer."""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_LOOK_AGAIN = 1.0
"""Seconds after which the room that a cluster has is asked for again."""


@dataclass(frozen=True)
class Work:
    """What a worker does with each task."""

    function: Callable[..., Any]
    """Of a task; of what is held and a task, where something is held."""
    begin: Callable[[], Any] | None = None
    """Gives what is held."""

    @cached_property
    def _held(self) -> Any:
        return None if self.begin is None else self.begin()

    def do(self, task: Any) -> Any:
        """What comes of a task. What is held is made for the first one."""
        return self.function(task) if self.begin is None else self.function(self._held, task)


@runtime_checkable
class Worker(Protocol):
    """One that does a task at a time."""

    def ready(self) -> Any:
        """A handle that is done once the worker has begun."""

    def do(self, task: Any) -> Any:
        """A handle on what comes of a task."""

    def end(self) -> None:
        """Let it go, also where it is at a task."""


@runtime_checkable
class Workers(Protocol):
    """Where workers come from."""

    died: tuple[type[BaseException], ...]
    """What a handle raises whose worker has died."""
    reason: str
    """Why that may be."""

    def room(self) -> int:
        """How many there may be now."""

    def begin(self) -> Worker:
        """Another one."""

    def wait(self, handles: Sequence[Any]) -> Sequence[Any]:
        """Those that are done, once one is."""

    def result(self, handle: Any) -> Any:
        """What a handle gives or raises."""

    def end(self) -> None:
        """Let go of what they came from."""


# --- processes -----------------------------------------------------------------------------------------------------


class _Process:
    """A process of this machine."""

    def __init__(self, work: Work) -> None:
        self.work = work
        # A pool of one: where a process of a larger pool dies, all others lose their tasks with it.
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)
        self.pid = self.pool.submit(os.getpid)

    def ready(self) -> Future[Any]:
        return self.pid

    def do(self, task: Any) -> Future[Any]:
        return self.pool.submit(_do, self.work, task)

    def end(self) -> None:
        with suppress(BrokenProcessPool, ProcessLookupError):
            os.kill(self.pid.result(), signal.SIGTERM)
        self.pool.shutdown(wait=True, cancel_futures=True)


class Processes:
    """Of this machine."""

    died: tuple[type[BaseException], ...] = (BrokenProcessPool,)
    reason = "its process was killed each time (out of memory?)"

    def __init__(self, work: Work, jobs: int) -> None:
        self.work, self.jobs = work, jobs

    def room(self) -> int:
        return self.jobs

    def begin(self) -> _Process:
        return _Process(self.work)

    def wait(self, handles: Sequence[Future[Any]]) -> Sequence[Future[Any]]:
        return list(wait(handles, return_when=FIRST_COMPLETED).done)

    def result(self, handle: Future[Any]) -> Any:
        return handle.result()

    def end(self) -> None:
        """Nothing."""


def _begin() -> None:
    """In a new process, before torch is imported there. An interrupt is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(_ONE_THREAD)
    # The lock of progress bars is a semaphore of all processes, of which Python warns where a worker ends without giving it back.
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, and each would go on, or wait for a task for ever."""
    if (parent := parent_process()) is not None:
        wait_for([parent.sentinel])
        os._exit(1)


_own: list[Work] = []
"""In a worker's process: the work that holds what is held, as it came with the first task."""


def _do(work: Work, task: Any) -> Any:
    if not _own:
        _own.append(work)
    return _own[0].do(task)


# --- Ray -----------------------------------------------------------------------------------------------------------


class _Actor:
    """What Ray runs."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def ready(self) -> None:
        """Nothing: it has begun where this is done."""

    def do(self, task: Any) -> Any:
        return self.work.do(task)


class _OnRay:
    """An actor of a cluster."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor

    def ready(self) -> Any:
        return self.actor.ready.remote()

    def do(self, task: Any) -> Any:
        return self.actor.do.remote(task)

    def end(self) -> None:
        self.ray.kill(self.actor)


class Actors:
    """Of a Ray cluster. Where a machine leaves it, there is room for fewer; where one joins, for more."""

    def __init__(self, work: Work, jobs: int, address: str | None, gpus_per_task: float) -> None:
        self.ray, self.ours = _ray(jobs, address)
        self.work = work
        errors: Any = self.ray.exceptions
        self.died: tuple[type[BaseException], ...] = (
            errors.RayActorError,
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.RaySystemError,
        )
        self.reason = "its worker, or the machine that it was on, was gone each time (out of memory?)"
        options = {"num_cpus": 1, "num_gpus": gpus_per_task, "runtime_env": {"env_vars": _ONE_THREAD}}
        self.kind = self.ray.remote(**options)(_Actor)
        self.jobs = jobs if address is None else 0
        self._room, self._asked = 0, -_LOOK_AGAIN
        self._gpus = gpus_per_task
        there = self.ray.cluster_resources().get("GPU", 0)
        if gpus_per_task > there:
            self.end()
            raise UserError(f"--gpus-per-task {gpus_per_task}: Ray has {there:g} GPUs there")

    def room(self) -> int:
        if self.jobs:
            return self.jobs
        if monotonic() - self._asked >= _LOOK_AGAIN:
            has = self.ray.cluster_resources()
            rooms = [has.get("CPU", 1), *([has.get("GPU", 0) / self._gpus] if self._gpus else [])]
            self._room, self._asked = max(1, int(min(rooms))), monotonic()
        return self._room

    def begin(self) -> _OnRay:
        return _OnRay(self.ray, self.kind.remote(self.work))

    def wait(self, handles: Sequence[Any]) -> Sequence[Any]:
        return list(self.ray.wait(list(handles))[0])

    def result(self, handle: Any) -> Any:
        try:
            return self.ray.get(handle)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def end(self) -> None:
        if self.ours:
            self.ray.shutdown()


def _ray(jobs: int, address: str | None) -> tuple[Any, bool]:
    """Ray, connected, and whether that was done here: a notebook may be connected already.

    Raises:
        UserError: it is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--executor ray needs the package ray: pip install 'triggerlens[ray]'") from error
    if ray.is_initialized():
        return ray, False
    local: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False} if address is None else {}
    _check_reachable(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # of its warnings, the one on tasks without a GPU
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except Exception as error:  # of a node that is too slow to start, Ray raises no more particular one
        reason = " ".join(str(error).split())[:160]
        where = (
            "Ray could not be started here"
            if address is None
            else f"--address {address}: no Ray cluster could be reached"
        )
        raise UserError(f"{where}: {reason}") from error
    return ray, True


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
