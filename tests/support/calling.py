"""Commands called in this process."""

import contextlib
import importlib
import io
import sys
from dataclasses import dataclass


@dataclass
class Outcome:
    """What a command left: exit status, stdout and stderr."""

    code: int
    out: str
    err: str


def called(name: str, *arguments) -> Outcome:
    """As the fixture `command`, for fixtures that outlive a test."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, [name, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            importlib.import_module(f"commands.{name.replace('-', '_')}").main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())
