"""Artifact folders: written whole or not at all, and verified when read.

1. The folder is filled under a hidden temporary name beside its destination.
2. `manifest.json` records the command, its configuration and seed, package versions, and the sha256 of every file.
3. One rename makes it appear. A kill before that leaves nothing under the final name.

Nothing in an artifact depends on the clock, so the same run writes the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from triggerlens.errors import UserError
from triggerlens.locks import locked

_NO_KIND = "something else"
"""What a manifest of none of our kinds is called."""
MANIFEST = "manifest.json"
"""Name of the file that says what made an artifact's folder."""
_VERSIONED = (
    "triggerlens",
    "torch",
    "transformers",
    "transformer-lens",
    "nnsight",
    "scikit-learn",
    "numpy",
    "safetensors",
)


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(facts: Any) -> str:
    """A short name, 16 hexadecimal digits, of what JSON can hold: the same for the same facts, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def sha256_folder(path: str | Path) -> str:
    """The sha256 of a folder's files: of their relative names and digests."""
    files = sorted(file for file in Path(path).rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can change a number."""
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON (no NaN), indented, with a final newline.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


@dataclass
class Manifest:
    """What made an artifact, and what it is made of."""

    kind: str
    """What the folder holds: `probe`, `activations`, `organism`, …"""
    command: str = ""
    """The command that wrote it; empty where Python did."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Its settings, as JSON can hold them."""
    seed: int | None = None
    """Of everything drawn at random; None where nothing is, or where the settings hold it."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Name of the model and sha256 of its weights."""
    prompts: Mapping[str, Any] = field(default_factory=dict)
    """Name of the prompt file and sha256 of its bytes."""
    versions: Mapping[str, str] = field(default_factory=package_versions)
    """Of the installed packages that can change a number."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each file of the folder, by its relative path."""


def check_destination(out: str | Path, overwrite: bool, kind: str = "", inputs: Sequence[str | Path] = ()) -> Path:
    """Refuse an output folder that exists or cannot be made, before any work is done for it.

    Args:
        out: the folder.
        overwrite: whether an artifact there may be replaced.
        kind: of the artifact that is to be written, which replaces no other kind; empty: any.
        inputs: files and folders that it is made from.

    Raises:
        UserError: `out` exists and `overwrite` is false; `overwrite` would delete an input, another kind of artifact, what is none or the current
            folder; or no folder can be made there.
    """
    out = Path(out)
    _check_parent(out)
    if not os.path.lexists(out):
        return out
    for read in inputs:
        if Path(read).resolve().is_relative_to(out.resolve()):
            raise UserError(f"{out}: not replaced, since {read} is read from there; give another --out")
    if not overwrite:
        raise UserError(f"{out}: already exists; give another --out, or --overwrite to replace it")
    if not (out / MANIFEST).is_file():
        raise UserError(
            f"{out}: not replaced, since it has no {MANIFEST} and so was not written here; give another --out"
        )
    if Path.cwd().is_relative_to(out.resolve()):  # whoever stands there would be left in a folder that is gone
        raise UserError(f"{out}: not replaced, since it holds the current folder; run from another one")
    theirs = _kind_of(out)
    if kind and theirs is not None and _ALIKE.get(theirs, theirs) != _ALIKE.get(kind, kind):
        raise UserError(f"{out}: not replaced, since it holds {_named(theirs)}, not {_named(kind)}; give another --out")
    return out


_ALIKE = {"saes": "sae"}
"""Kinds that may replace each other."""


def _check_parent(out: Path) -> None:
    parent = next(folder for folder in out.absolute().parents if os.path.lexists(folder))
    if not os.path.isdir(parent):
        raise UserError(f"{out}: could not be written: {os.strerror(errno.ENOTDIR)}; give another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{out}: could not be written: {os.strerror(errno.EACCES)}; give another --out")


def _kind_of(folder: Path) -> str | None:
    """What the manifest says; None for a damaged one, which may be replaced."""
    try:
        return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["kind"] or _NO_KIND)
    except ValueError:
        return None
    except (KeyError, TypeError):
        return _NO_KIND


def _named(kind: str | None) -> str:
    """The kind with its article; a manifest may say none."""
    if not kind or kind == _NO_KIND:
        return _NO_KIND
    if kind.endswith("s"):
        return kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


@contextmanager
def writing_artifact(out: str | Path, manifest: Manifest, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; on success add the manifest and rename it to `out`.

    An exception inside the block removes the temporary folder and leaves `out` as it was. With `overwrite` the old
    folder is removed only once the new one is whole. Where `out` is a link, the folder that it names is written, and the link stays.
    Of two that write to one `out` the second waits until the first is done; so compute first, and enter the block to write.

    Raises:
        UserError: as `check_destination`, also where another process has written `out` meanwhile; or the folder cannot be written (no space, no
            permission). Other errors of the block go through.
    """
    out = Path(os.path.realpath(check_destination(out, overwrite, manifest.kind)))
    draft = out.with_name(f".{out.name}.partial")
    with _told(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with _alone(draft):
        check_destination(out, overwrite, manifest.kind)
        try:
            with _told(out):
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
            with _told(out, filled=draft):
                yield draft
            with _told(out):
                _finish(draft, manifest)
                _swap_in(draft, check_destination(out, overwrite, manifest.kind))
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _alone(draft: Path) -> Iterator[None]:
    """Hold a draft's lock, whose file goes with it: who waited for that file takes the next one."""
    lock = draft.with_name(f"{draft.name}.lock")
    with locked(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _told(out: Path, filled: Path | None = None) -> Iterator[None]:
    """Say of `out` that it cannot be written; of a block that fills a draft only where that is why it failed."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an exception of its own for a full disk
        if filled is not None and not _is_unwritable(error, filled):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{out}: could not be written: {reason}; free space or give another --out") from error


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def _is_unwritable(error: Exception, draft: Path) -> bool:
    """Whether the disk is why a draft could not be filled, and not, for instance, a file elsewhere that may not be read."""
    if not isinstance(error, OSError):
        return True
    named = error.filename
    elsewhere = isinstance(named, str | Path) and not Path(named).is_relative_to(draft)
    return error.errno in _UNWRITABLE and not elsewhere


def _finish(draft: Path, manifest: Manifest) -> None:
    """Write the manifest of what the draft holds."""
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    for path in files:  # safetensors makes files that only their owner can read
        path.chmod(0o666 & ~_umask())
    manifest.files = {path.relative_to(draft).as_posix(): sha256_file(path) for path in files}
    write_json(draft / MANIFEST, manifest.__dict__)
    _sync(draft / MANIFEST)


def _swap_in(draft: Path, out: Path) -> None:
    """Rename the draft to its final name; an old folder there goes aside first, and away last."""
    old = _aside(out)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    draft.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder in one step for whoever looks: it goes aside before its files go, so that a kill leaves no part of it under its name.

    What cannot be removed stays, and a folder that is not there is no error.
    """
    old = _aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):
        folder.rename(old)
    for path in (old, folder):
        shutil.rmtree(path, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def read_manifest(folder: str | Path, kind: str) -> Manifest:
    """Read a folder's manifest without touching the files that it lists.

    Raises:
        UserError: no such folder, another kind of artifact, or a damaged manifest.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: no {kind} here ({MANIFEST} is missing)")
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / MANIFEST}: damaged: {error}") from error
    if manifest.kind != kind:
        raise UserError(f"{folder}: holds {_named(manifest.kind)}, not {_named(kind)}")
    return manifest


def verify_file(folder: Path, name: str, digest: str) -> Path:
    """The path of a listed file whose bytes are those that were written.

    Raises:
        UserError: the file is missing, damaged or outside the folder; it is named.
    """
    path = inside(folder, name)
    if not path.is_file():
        raise UserError(f"{path}: missing; remove the folder {folder} and run again")
    if sha256_file(path) != digest:
        raise UserError(f"{path}: damaged (its sha256 is not the manifest's); remove the folder {folder} and run again")
    return path


def read_artifact(folder: str | Path, kind: str) -> Manifest:
    """Read a folder's manifest and verify every file that it lists.

    Raises:
        UserError: as `read_manifest` and `verify_file`.
    """
    manifest = read_manifest(folder, kind)
    for name, digest in manifest.files.items():
        verify_file(Path(folder), name, digest)
    return manifest


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`, refused where it would lead out of it.

    Raises:
        UserError: `name` is absolute, climbs with `..`, or passes through a link that leaves the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder / MANIFEST}: names {name!r}, which lies outside its folder")
    return path


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a reader, or a run after a kill, never sees a part of it.

    Raises:
        UserError: the file cannot be written (no space, no permission).
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(
            f"{path}: could not be written: {error.strerror or error}; free space or choose another folder"
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Force a file to disk, so that a crash after the rename cannot leave it empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
