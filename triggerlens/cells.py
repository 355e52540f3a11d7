"""Pieces of a long computation, each kept as soon as it is there, so that a run that was stopped loses one piece at most.

1. A run has a hidden folder. It records the settings that made it; another run's pieces are never mixed in.
2. A cell is a folder of its own in it, written whole or not at all: facts in JSON, tensors in safetensors.
3. What is whole there is read and not computed again; a damaged cell is computed anew.
4. A cell is locked while it is computed: of two processes on one run, one computes it and the other waits and reads it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from triggerlens.artifacts import (
    Manifest,
    check_destination,
    read_artifact,
    write_bytes_atomically,
    write_json,
    writing_artifact,
)
from triggerlens.errors import UserError
from triggerlens.locks import locked

Facts = dict[str, Any]
"""What JSON can hold; a tensor as a top-level value is kept too, in safetensors."""

Keep = Callable[[str, Callable[[], Facts]], Facts]
"""Gives the facts of a cell by name: those kept, or those that the function computes now."""

_RUN = "run.json"


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
        theirs = _read_json(self.folder / _RUN)
        if theirs is not None and theirs != ours:
            changed = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
            raise UserError(
                f"{self.folder}: an unfinished run with other settings ({', '.join(changed)}); finish it, or --overwrite to drop it"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: could not be written: {error.strerror}; give another --out") from error
        write_bytes_atomically(self.folder / _RUN, json.dumps(ours).encode())

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

    def _locked(self, cell: Path) -> AbstractContextManager[None]:
        self.folder.mkdir(
            parents=True, exist_ok=True
        )  # another process may have finished the run, and dropped its cells
        return locked(self.folder / f"{cell.name}.lock", wait=self.wait)

    def drop(self) -> None:
        """Remove all cells: the run is finished and its result is saved, or nobody wants it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def cells_folder(out: str | Path) -> Path:
    """Where the unfinished run towards `out` keeps its cells: hidden, beside its destination."""
    out = Path(out)
    return out.with_name(f".{out.name}.cells")


def drop_cells(out: str | Path) -> None:
    """Remove what an unfinished run towards `out` has left: it is finished, or it is not to go on."""
    shutil.rmtree(cells_folder(out), ignore_errors=True)


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


def _write(cell: Path, name: str, facts: Facts, seconds: float) -> None:
    if cell.exists():
        shutil.rmtree(check_destination(cell, overwrite=True))
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
