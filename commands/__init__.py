"""Console scripts: each reads its configuration, calls the rooms and prints. Nothing imports this package."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

INTERRUPTED = "interrupted: run the same command again to go on where it stopped"


def _stop(*_: Any) -> None:
    """Before a command runs there is nothing to tidy up, and an exception in the middle of an import is a page of traceback."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


def _is_script() -> bool:
    """Whether this process is one of the console scripts, and not a program that imports one."""
    first = sys.argv[0] if sys.argv else ""
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or first)
    name = script.name.removesuffix(".exe").replace("-", "_")
    return first == "-m" or (Path(__file__).parent / f"{name}.py").is_file()


if _is_script() and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, _stop)
