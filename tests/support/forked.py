"""Processes of their own, forked from one that has imported what a command needs: a tenth of a second each in place of five.

What is forked is a server that has imported and computed nothing, so that a child begins as a new Python does: with no weights,
no threads and no random draws of the test's own process. Installed scripts and `torchrun` are started where a test is about them.
"""

import importlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["forked_imports"])


def start(
    work: Callable, *arguments, out: Path | None = None, environment: dict[str, str] | None = None
) -> BaseProcess:
    """A process that calls `work`, a function of a module of `tests/support`, and writes its stdout to `out`, its stderr to `out`.err."""
    process = _SERVER.Process(target=_child, args=(work, arguments, out, os.environ | (environment or {})), daemon=True)
    # The server finds what it imports as a new Python does; where it does not, it says nothing and imports nothing.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        forkserver.ensure_running()
    process.start()
    return process


def start_command(name: str, *arguments, out: Path | None = None) -> BaseProcess:
    """As a console script, with arguments."""
    return start(command_called, name, list(map(str, arguments)), out=out)


def run_ranks(out: Path, work: Callable, *arguments) -> None:
    """`work` in two processes that share a job; their stdout is in `out.0` and `out.1`."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        start(
            work,
            *arguments,
            out=Path(f"{out}.{rank}"),
            environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    for process in ranks:
        process.join(120)
    codes = [process.exitcode for process in ranks]
    assert codes == [0, 0], [Path(f"{out}.{rank}.err").read_text() for rank in range(2)]


def _child(work: Callable, arguments: tuple, out: Path | None, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for stream, place in ((1, out), (2, out and f"{out}.err")):
        os.dup2(os.open(place or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    work(*arguments)


def command_called(name: str, arguments: list[str]) -> None:
    sys.argv = [name, *arguments]
    importlib.import_module(f"commands.{name.replace('-', '_')}").main()
