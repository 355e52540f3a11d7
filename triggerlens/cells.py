"""Pieces of a long computation, each kept as soon as it is there, so that a run that was stopped loses one piece at most.

1. A run has a hidden folder. It records the settings that made it; another run's pieces are never mixed in.
2. A cell is a folder of its own in it, written whole or not at all: facts in JSON, tensors in safetensors.
3. What is whole there is read and not computed again; a damaged cell is computed anew.
4. A cell is locked while it is computed: of two processes on one run, one computes it and the other waits and reads it, or does others
   meanwhile (`in_turn`).
5. Workers that all do the same run share its cells so (`share_cells`).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from triggerlens.artifacts import (
    Manifest,
    read_artifact,
    remove_folder,
    write_bytes_atomically,
    write_json,
    writing_artifact,
)
from triggerlens.errors import UserError
from triggerlens.executors import ExecutorConfig, Lost, run_tasks
from triggerlens.locks import Busy, locked
from triggerlens.notices import say_once
from triggerlens.tables import printable

Facts = dict[str, Any]
"""What JSON can hold; a tensor as a top-level value is kept too, in safetensors."""

Keep = Callable[[str, Callable[[], Facts]], Facts]
"""Gives the facts of a cell by name: those kept, or those that the function computes now."""

Value = TypeVar("Value")
_RUN = "run.json"
_BEFORE = "before.json"
"""Settings of a run whose cells the next one may drop."""
_CELL = re.compile(r"\.*[0-9a-f]{16}(\.partial|\.old)*")
"""Name of a cell's folder, whole or half written."""
_PAUSE = 0.2
"""Seconds before cells are asked for again, where other processes are at all that are left."""
_LOOK = 1.0
"""Seconds between two looks at how many cells are there."""


def keep_nothing(name: str, compute: Callable[[], Facts]) -> Facts:
    """The `Keep` of a run that nobody resumes."""
    return compute()


class Cells:
    """The cells of one run.

    >>> cells = Cells(Path("runs/.sweep.cells"), {"seed": 0})
    >>> cells.keep("layer 3", lambda: {"auroc": 0.9})
    {'auroc': 0.9}
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any] | None = None,
        *,
        on_cell: Callable[[str], None] = lambda name: None,
        wait: bool = True,
    ):
        """Begin a run, or go on with one.

        Args:
            folder: of the cells; made where it is missing.
            settings: all that decides the numbers and is not in a cell's name.
            on_cell: told the name of each cell when its turn comes, for a progress bar.
            wait: where another process is at a cell, until that is there.

        Raises:
            UserError: the folder holds cells of a run with other settings, or cannot be written.
        """
        self.folder, self.on_cell, self.wait = Path(folder), on_cell, wait
        self.seconds: dict[str, float] = {}
        """What each cell took when it was computed."""
        ours = json.loads(json.dumps(dict(settings or {})))
        self._settings = json.dumps(ours).encode()
        _make(self.folder)
        # Of processes that begin together, none removes what another has computed.
        with locked(self.folder / "run.lock"):
            theirs = _read_json(self.folder / _RUN)
            if theirs is None:
                if _read_json(self.folder / _BEFORE) != ours:
                    _drop_unclaimed(self.folder)
            elif theirs != ours:
                changed = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
                raise UserError(
                    f"{self.folder}: an unfinished run with other settings ({', '.join(changed)}); finish it, or --overwrite to drop it"
                )
            self._claim()
            (self.folder / _BEFORE).unlink(missing_ok=True)

    def keep(self, name: str, compute: Callable[[], Facts]) -> Facts:
        """The facts of a cell: those kept, or those that `compute` gives now.

        They are always read back, so that a run that went on gives the same bytes as one that was never stopped.

        Raises:
            UserError: the cell cannot be written.
            Busy: another process is at it, and it is not waited for.
        """
        self.on_cell(name)
        cell = self.folder / hashlib.sha256(name.encode()).hexdigest()[:16]
        if not _is_whole(cell):
            with self._locked(cell):
                if not _is_whole(cell):
                    start = time.perf_counter()
                    facts = compute()
                    _write(cell, name, facts, round(time.perf_counter() - start, 2))
        facts, self.seconds[name] = _read(cell)
        return facts

    def _claim(self) -> None:
        """Say whose cells the folder holds."""
        _make(self.folder)
        write_bytes_atomically(self.folder / _RUN, self._settings)

    def _locked(self, cell: Path) -> AbstractContextManager[None]:
        if not (self.folder / _RUN).exists():  # another process may have finished the run, and dropped its cells
            self._claim()
        return locked(self.folder / f"{cell.name}.lock", wait=self.wait)

    def drop(self) -> None:
        """Remove all cells: the run is finished and its result is saved, or nobody wants it."""
        remove_folder(self.folder)


def in_turn(asks: Sequence[Callable[[], Value]]) -> list[Value]:
    """What each of them gives, in their order. One that another process is at is asked again after the others, until it is there.

    Args:
        asks: each raises `Busy` where another process is at its cell, as `Cells.keep` does where it does not wait.
    """
    given: dict[int, Value] = {}
    while len(given) < len(asks):
        before = len(given)
        for number, ask in enumerate(asks):
            if number not in given:
                try:
                    given[number] = ask()
                except Busy:
                    continue
        if len(given) == before:
            time.sleep(_PAUSE)
    return [given[number] for number in range(len(asks))]


def share_cells(work: Callable[[], None], folder: Path, executor: ExecutorConfig, bar: tqdm[Any]) -> None:
    """Workers compute what is missing of a run's cells.

    Args:
        work: what each does, importable by its name: compute cells that nobody is at until there is none.
        folder: of the cells; workers on other machines must see it under the same path. What a worker prints goes to a log in it.
        executor: where.
        bar: counts the cells that are there; begins anew for who reads them.

    Raises:
        UserError: as the executor, or the folder cannot be written.
        Exception: what the work raises.
    """
    ended: list[int] = []
    _make(folder)
    try:
        with _counted(folder, bar):
            for done in run_tasks(partial(_logged, work, folder), _numbers(executor, ended), executor):
                ended.append(done.task)
                if isinstance(done.result, Lost):
                    reason = done.result.reason
                    say_once(f"a worker was lost: {reason}; what it leaves is computed by the others, or here")
    except UserError:
        _leave_nothing(folder)
        raise
    bar.reset()


def _leave_nothing(folder: Path) -> None:
    """Of a run that was refused before anything was computed."""
    if all(path.match("worker-*.log") for path in folder.iterdir()):
        remove_folder(folder)


def _numbers(executor: ExecutorConfig, ended: list[int]) -> Iterator[int]:
    """As many workers as were asked for; of a cluster as many as there is room for, until one has found nothing more to do."""
    for number in range(executor.jobs) if executor.address is None else count():
        if ended:
            return
        yield number


def _logged(work: Callable[[], None], folder: Path, number: int) -> None:
    """In a worker."""
    with (
        (folder / f"worker-{number}.log").open("a", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        work()


@contextmanager
def _counted(folder: Path, bar: tqdm[Any]) -> Iterator[None]:
    """Show on a bar how many cells are there, and the newest."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK):
            there = sorted(folder.glob("[!.]*/cell.json"), key=_written)
            bar.n = len(there)
            bar.set_postfix_str(printable(_name_of(there[-1].parent)) if there else "workers begin")

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _name_of(cell: Path) -> str:
    return str(((_read_json(cell / "manifest.json") or {}).get("config") or {}).get("name", ""))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: could not be written: {error.strerror}; choose another folder") from error


def cells_folder(out: str | Path) -> Path:
    """Where the unfinished run towards `out` keeps its cells: hidden, beside its destination."""
    out = Path(out)
    return out.with_name(f".{out.name}.cells")


def release_cells(out: str | Path) -> None:
    """Let a run of any settings begin towards `out`: where they are those of the unfinished run there it goes on with its cells, else these are dropped."""
    folder = cells_folder(out)
    with suppress(FileNotFoundError):
        (folder / _RUN).replace(folder / _BEFORE)


def drop_cells(out: str | Path) -> None:
    """Remove what an unfinished run towards `out` has left: it is finished, or it is not to go on."""
    remove_folder(cells_folder(out))


def tensors_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that are tensors."""
    from torch import Tensor

    return {name: value for name, value in facts.items() if isinstance(value, Tensor)}


def without_tensors(facts: Mapping[str, Any]) -> Facts:
    """The facts that JSON holds."""
    tensors = tensors_of(facts)
    return {name: value for name, value in facts.items() if name not in tensors}


def _is_whole(cell: Path) -> bool:
    try:
        read_artifact(cell, "cell")
    except UserError:
        return False
    return True


def _drop_unclaimed(folder: Path) -> None:
    """Remove cells that nothing says the settings of, as a kill while they were removed has left them; and nothing else that is in the folder."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and _CELL.fullmatch(path.name):
            remove_folder(path)


def _write(cell: Path, name: str, facts: Facts, seconds: float) -> None:
    remove_folder(cell)  # it is not whole
    with writing_artifact(cell, Manifest("cell", config={"name": name})) as draft:
        write_json(draft / "cell.json", {"facts": without_tensors(facts), "seconds": seconds})
        if tensors := tensors_of(facts):
            from safetensors.torch import save_file

            save_file({key: value.contiguous() for key, value in tensors.items()}, draft / "tensors.safetensors")


def _read(cell: Path) -> tuple[Facts, float]:
    content = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
    path = cell / "tensors.safetensors"
    if not path.is_file():
        return content["facts"], content["seconds"]
    from safetensors.torch import load_file

    return content["facts"] | load_file(path), content["seconds"]


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
