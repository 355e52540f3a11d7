import importlib
import signal
import sys

import pytest
from calling import Outcome


@pytest.fixture
def interruptible():
    """Ctrl-C does afterwards what it did before: a command that was interrupted leaves it ignored, since it is about to end."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def command(capfd, monkeypatch):
    """Runs a console script's entry point with arguments."""

    def run(name: str, *arguments) -> Outcome:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capfd.readouterr()
        try:
            importlib.import_module(f"commands.{name.replace('-', '_')}").main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
