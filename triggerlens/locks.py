"""A file lock for what only one process may do at a time; the system lets go of it where that process dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triggerlens.errors import UserError


class Busy(Exception):
    """Another process is at this task. An executor asks again later, and does others meanwhile."""


@contextmanager
def locked(path: str | Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file, which stays when it is let go.

    Args:
        path: of the lock file, in a folder that is there. Machines that share the folder share the lock, where its file system has locks.
        wait: until nobody else holds it.

    Raises:
        Busy: somebody else holds it, and it is not waited for.
        UserError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise Busy(str(path)) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be locked: {error.strerror or error}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()
