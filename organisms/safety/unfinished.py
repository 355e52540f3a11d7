"""The folder of an unfinished safety training: claimed for one set of settings, and told where it cannot be written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from triggerlens import UserError, rank, remove_folder, write_bytes_atomically


def claim(folder: Path, config: dict[str, Any], overwrite: bool) -> None:
    """Make the folder of an unfinished run, or go on in it where it is of the same settings.

    Raises:
        UserError: it is of other settings, and would be lost.
    """
    path, content = folder / "config.json", (json.dumps(config, indent=2) + "\n").encode()
    if path.is_file() and path.read_bytes() != content and rank() == 0:
        if not overwrite:
            theirs = json.loads(path.read_text(encoding="utf-8"))
            apart = ", ".join(
                f"{key} {theirs.get(key)} (not {config.get(key)})"
                for key in {**theirs, **config}
                if theirs.get(key) != config.get(key)
            )
            raise UserError(f"{folder}: an unfinished run with {apart}; finish it, or --overwrite to drop it")
        remove_folder(folder)
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, content)


@contextmanager
def full_disk_is_told(folder: Path) -> Iterator[None]:
    """A line in place of a traceback where a checkpoint cannot be written."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch says of a write that failed, only that its file ended elsewhere than expected.
        if isinstance(error, RuntimeError) and not any(
            sign in str(error) for sign in ("PytorchStream", "unexpected pos")
        ):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{folder}: a checkpoint could not be written: {reason}; free space and run again: finished ones are kept"
        ) from error


def newest_whole(folder: Path) -> str | None:
    """The newest checkpoint of a trainer that was written to its end: the trainer's state is the last file of it."""
    every = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [path for path in every if (path / "trainer_state.json").is_file()]
    for path in set(every) - set(whole):
        remove_folder(path)
    return str(whole[-1]) if whole else None
