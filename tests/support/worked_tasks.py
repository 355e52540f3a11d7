"""Tasks for executors: importable in another process."""

import os
import signal
import time
from pathlib import Path


def squared(number):
    return number * number


def threads(_):
    return os.environ.get("OMP_NUM_THREADS")


def failing(number):
    if number == 2:
        raise ValueError("two")
    return number


def killed_once(folder):
    """Dies at the first try of the task that says so."""
    folder = Path(folder)
    with (folder / "tries").open("a") as file:
        file.write("x")
    if folder.name == "dies" and (folder / "tries").read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    return folder.name


def killed_always(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def slow(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)
