"""Results of an unfinished run, each written when it is there: a killed run goes on after the last of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from patching.removal.measure import Measured
from patching.removal.relearning import Relearned
from patching.removal.result import SeedResult
from triggerlens import UserError, write_bytes_atomically

_RUN = "run.json"


class Progress:
    """A hidden folder beside the destination, one file a method and seed; nothing at all where there is no destination."""

    def __init__(self, folder: Path | None, run: Mapping[str, Any]):
        """Begin, or go on.

        Raises:
            UserError: the folder holds the results of a run with other settings.
        """
        self.folder = folder
        if folder is None:
            return
        ours = json.loads(json.dumps(run))
        known = _read(folder / _RUN)
        if known is not None and known != ours:
            changed = sorted(key for key in known.keys() | ours.keys() if known.get(key) != ours.get(key))
            raise UserError(
                f"{folder}: an unfinished run with other settings ({', '.join(changed)}); finish it, or --overwrite to drop it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._write(_RUN, ours)

    def load(self, name: str, seed: int) -> SeedResult | None:
        """A result that is there; a damaged file counts for nothing."""
        found = None if self.folder is None else _read(self.folder / _file(name, seed))
        if found is None or found.get("name") != name:
            return None
        try:
            return seed_result(found["result"])
        except (KeyError, TypeError):
            return None

    def save(self, name: str, result: SeedResult) -> None:
        """Keep a result."""
        self._write(_file(name, result.seed), {"name": name, "result": asdict(result)})

    def _write(self, name: str, value: Any) -> None:
        if self.folder is not None:
            write_bytes_atomically(self.folder / name, json.dumps(value, allow_nan=False).encode())


def progress_folder(out: str | Path) -> Path:
    """Where the run towards `out` keeps its results."""
    out = Path(out)
    return out.with_name(f".{out.name}.results")


def drop_progress(out: str | Path) -> None:
    """Remove what an unfinished run towards `out` has left."""
    shutil.rmtree(progress_folder(out), ignore_errors=True)


def seed_result(found: Mapping[str, Any]) -> SeedResult:
    """From its JSON."""
    return SeedResult(
        **{
            **found,
            "evaluation": Measured(**found["evaluation"]),
            "validation": Measured(**found["validation"]),
            "relearned": None if found["relearned"] is None else Relearned(**found["relearned"]),
        }
    )


def _file(name: str, seed: int) -> str:
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}.{seed}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
