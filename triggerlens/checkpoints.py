"""Checkpoints of a run: whole or not there, so that a kill at any moment costs at most the steps since the last one.

1. A checkpoint is an artifact folder `step-00000042` of its own, with tensors in safetensors and the rest in JSON.
2. The older one goes once the newer one is whole; a damaged one counts for nothing.
3. A run goes on from a checkpoint only where its configuration is the one that made it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from triggerlens.artifacts import Manifest, read_artifact, remove_folder, write_json, writing_artifact
from triggerlens.errors import UserError

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors, and facts that JSON can hold."""


def checkpoint_folder(out: str | Path) -> Path:
    """Where an unfinished run keeps its checkpoints: hidden, beside its destination."""
    out = Path(out)
    return out.with_name(f".{out.name}.training")


def save_checkpoint(
    folder: Path,
    kind: str,
    config: Mapping[str, Any],
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping,
    written: Callable[[], None] = lambda: None,
) -> None:
    """Write the checkpoint of a step, then drop the older ones.

    Args:
        folder: of all checkpoints of the run, or of one rank.
        kind: of the checkpoint's artifact.
        config: the run's configuration.
        step: steps done.
        tensors: kept.
        facts: kept, as JSON.
        written: called before the older ones go: ranks wait there for each other, so that there always is a step that all of them have.

    Raises:
        UserError: the folder cannot be written.
    """
    older = _folders(folder)
    new = folder / f"step-{step:08}"
    if not _is_whole(new, kind):
        remove_folder(new)
    with writing_artifact(new, Manifest(kind, config=dict(config)), overwrite=new.exists()) as draft:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft / "state.safetensors")
        write_json(draft / "state.json", {"step": step, **facts})
    written()
    for path in older:
        if path != new:
            remove_folder(path)


def load_checkpoint(folder: Path, kind: str, config: Mapping[str, Any], *, restart: bool = False) -> Checkpoint | None:
    """The newest whole checkpoint, or None where there is none.

    Args:
        folder: of all checkpoints of the run.
        kind: of the checkpoint's artifact.
        config: the run's configuration.
        restart: drop checkpoints of another configuration.

    Raises:
        UserError: it was made with another configuration, and would be lost.
    """
    newest = _newest_whole(folder, kind)
    if newest is None:
        return None
    theirs = read_artifact(newest, kind).config
    if dict(theirs) != json.loads(json.dumps(dict(config))):
        if restart:
            drop_checkpoints(folder)
            return None
        raise UserError(
            f"{folder}: an unfinished run with {_difference(theirs, config)}; finish it, or --overwrite to drop it"
        )
    facts = json.loads((newest / "state.json").read_text(encoding="utf-8"))
    return load_file(newest / "state.safetensors"), facts


def keep_common(folder: Path, kind: str, from_all: Callable[[set[str]], list[set[str]]]) -> None:
    """Drop a rank's checkpoints that are newer than the newest one that every rank has whole, where a run was killed while they were written.

    Call it once it is known that they are of this run (`load_checkpoint`): where ranks have none in common, all are dropped.

    Args:
        folder: of this rank.
        kind: of the checkpoint's artifact.
        from_all: gives what every rank has.
    """
    common = max(set.intersection(*from_all({path.name for path in _whole(folder, kind)})), default="")
    for path in _folders(folder):
        if path.name > common:
            remove_folder(path)


def drop_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run."""
    remove_folder(folder)


def _folders(folder: Path) -> list[Path]:
    """The checkpoints there are, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _newest_whole(folder: Path, kind: str) -> Path | None:
    """The newest checkpoint whose files are all as they were written; a damaged one costs only its own steps."""
    return next(_whole(folder, kind), None)


def _whole(folder: Path, kind: str) -> Iterator[Path]:
    """Checkpoints whose files are all as they were written, the newest first."""
    return (path for path in reversed(_folders(folder)) if _is_whole(path, kind))


def _is_whole(path: Path, kind: str) -> bool:
    try:
        read_artifact(path, kind)
    except UserError:
        return False
    return True


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The settings of a checkpoint that are not this run's."""
    before, now = _flat(theirs), _flat(json.loads(json.dumps(dict(ours))))
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key)} (not {now.get(key)})" for key in keys)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings by a joined name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
