"""Many tasks of one function: one after another, in processes of this machine, or on a Ray cluster. What they return is the same.

1. A task is an argument of an importable function, and its result is what that returns: a pure function of the task, or one that keeps what it makes
   under the task's name, so that a task that is done twice gives the same.
2. Every worker computes in one thread: two workers of two threads each on two cores are far slower than two of one.
3. A worker that dies (killed, out of memory, its machine gone) costs the task that it was at: that one is tried once more, then told as lost.
4. A task that another driver is at (`Busy`) is asked for again when the others are done: two drivers share the work.
5. An interrupt ends the workers and the tasks that they were at; so does the death of the process that began them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from triggerlens.errors import UserError
from triggerlens.locks import Busy
from triggerlens.workers import Actors, Processes, Work, Worker, Workers

Held = TypeVar("Held")
Task = TypeVar("Task")
Result = TypeVar("Result")
ExecutorName = Literal["serial", "processes", "ray"]
ATTEMPTS = 2
"""How often a task is tried whose worker dies."""
_PAUSE = 0.2
"""Seconds before a task is asked for again that another driver is at, where nothing else is left."""
_STILLBORN = 10
"""Workers in a row that may die before they have begun."""


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
    """How, in words."""


@dataclass(frozen=True, slots=True)
class Done(Generic[Task, Result]):
    """A task with what came of it."""

    task: Task
    """What was asked for."""
    result: Result | Lost
    """What its function returned, or that its worker was lost."""


def whole_path(name: str) -> str:
    """A file or folder by its whole path, since a worker may run in another folder; what is none, such as a Hugging Face id, as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def run_tasks(
    function: Callable[[Task], Result], tasks: Iterable[Task], config: ExecutorConfig
) -> Generator[Done[Task, Result], None, None]:
    """Tasks with their results, in the order in which they are done.

    Args:
        function: importable by its name, also in another process.
        tasks: its arguments, which can be sent to another process; taken from the iterable as workers are there for them.
        config: where they are computed.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
        Exception: whatever the function raises.
    """
    return _run(Work(function), tasks, config)


def run_held(
    begin: Callable[[], Held],
    function: Callable[[Held, Task], Result],
    tasks: Iterable[Task],
    config: ExecutorConfig,
) -> Generator[Done[Task, Result], None, None]:
    """As `run_tasks`, by workers each of which holds something, such as a model, as long as it lives.

    Args:
        begin: gives what a worker holds; called once in each.
        function: of what is held and a task.
    """
    return _run(Work(function, begin), tasks, config)


def _run(work: Work, tasks: Iterable[Any], config: ExecutorConfig) -> Generator[Done[Any, Any], None, None]:
    turns = _Turns(tasks)
    if config.name == "serial":
        return _one_after_another(work, turns)
    return _in_workers(work, turns, config)


@dataclass(slots=True)
class _Turn:
    """A task that is to be done."""

    task: Any
    tried: int = 0
    busy: bool = False
    """Whether another driver was at it."""


class _Turns:
    """Tasks in their order; those that another driver is at come last."""

    def __init__(self, tasks: Iterable[Any]) -> None:
        self._tasks, self._waiting = iter(tasks), deque[_Turn]()

    def have(self, count: int) -> bool:
        """Whether so many are left."""
        self._waiting.extend(_Turn(task) for task in islice(self._tasks, max(0, count - len(self._waiting))))
        return len(self._waiting) >= count

    def next(self) -> _Turn:
        """The next one; after a pause where only such are left that another driver is at."""
        if self._waiting[0].busy and self.have(len(self._waiting) + 1):
            self._waiting.rotate(1)  # the one that was just taken from the tasks
        if self._waiting[0].busy:
            time.sleep(_PAUSE)
        return self._waiting.popleft()

    def again(self, turn: _Turn) -> None:
        """Next of all."""
        self._waiting.appendleft(turn)

    def later(self, turn: _Turn) -> None:
        """After all others."""
        turn.busy = True
        self._waiting.append(turn)


def _one_after_another(work: Work, turns: _Turns) -> Generator[Done[Any, Any], None, None]:
    while turns.have(1):
        turn = turns.next()
        try:
            done = Done(turn.task, work.do(turn.task))
        except Busy:
            turns.later(turn)
            continue
        yield done


def _in_workers(work: Work, turns: _Turns, config: ExecutorConfig) -> Generator[Done[Any, Any], None, None]:
    if not turns.have(1):
        return
    source: Workers = (
        Actors(work, config.jobs, config.address, config.gpus_per_task)
        if config.name == "ray"
        else Processes(work, config.jobs)
    )
    crew = _Crew(source, turns)
    try:
        while crew.employ():
            settled, failure = crew.settle()
            if failure is None:
                crew.employ()  # so that nobody is idle while what was done is looked at
            yield from settled
            if failure is not None:
                raise failure
    finally:
        crew.end()


class _Crew:
    """Workers and what each is at."""

    def __init__(self, source: Workers, turns: _Turns) -> None:
        self.source, self.turns = source, turns
        self.workers: list[Worker] = []
        self.idle: list[Worker] = []
        self.running: dict[Any, tuple[Worker, _Turn | None]] = {}
        """By handle; no task of a worker that is beginning."""
        self.stillborn = 0

    def employ(self) -> bool:
        """Begin workers and give tasks to those that are idle; false where all is done."""
        while self.idle and self.turns.have(1):
            worker, turn = self.idle.pop(), self.turns.next()
            try:
                self.running[worker.do(turn.task)] = worker, turn
            except self.source.died:  # while it was idle
                self._forget(worker)
                self.turns.again(turn)
        beginning = sum(turn is None for _, turn in self.running.values())
        while self.turns.have(beginning + 1) and len(self.workers) < self.source.room():
            worker = self.source.begin()
            self.workers.append(worker)
            self.running[worker.ready()] = worker, None
            beginning += 1
        return self.turns.have(1) or any(turn is not None for _, turn in self.running.values())

    def settle(self) -> tuple[list[Done[Any, Any]], Exception | None]:
        """Wait until something is done, and tell what came of it, and what a task raised."""
        settled: list[Done[Any, Any]] = []
        failure: Exception | None = None
        for handle in self.source.wait(list(self.running)):
            worker, turn = self.running.pop(handle)
            try:
                result = self.source.result(handle)
            except self.source.died as error:
                self._forget(worker)
                if turn is None:
                    self._count_stillborn(error)
                elif turn.tried + 1 < ATTEMPTS:
                    turn.tried += 1
                    self.turns.again(turn)
                else:
                    settled.append(Done(turn.task, Lost(self.source.reason)))
                continue
            except Busy:
                assert turn is not None  # only a task is busy
                self.turns.later(turn)
                result, turn = None, None
            except Exception as error:  # the task's own
                failure = error
                continue
            self.idle.append(worker)
            self.stillborn = 0
            if turn is not None:
                settled.append(Done(turn.task, result))
        return settled, failure

    def end(self) -> None:
        """Let all of them go."""
        for worker in self.workers:
            worker.end()
        self.source.end()

    def _forget(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.end()

    def _count_stillborn(self, error: BaseException) -> None:
        self.stillborn += 1
        if self.stillborn == _STILLBORN:
            raise UserError(f"workers die as they begin (out of memory?): {' '.join(str(error).split())[:160]}")
