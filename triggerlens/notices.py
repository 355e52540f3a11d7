"""What a user must know once: a line on stderr, however often its cause occurs."""

from __future__ import annotations

import sys

from triggerlens.processes import rank
from triggerlens.tables import printable

_SAID: set[str] = set()


def say_once(message: str) -> None:
    """Print `note: …` on stderr the first time that this process has this to say; other ranks than the first keep quiet."""
    if message in _SAID or rank() > 0:
        return
    _SAID.add(message)
    print(printable(f"note: {' '.join(message.split())}"), file=sys.stderr)
