"""Plain text and tables for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What a terminal acts on in place of showing it: control characters but newline and tab, and what ends a line or turns its direction."""


def printable(text: str) -> str:
    """A text in which no character makes a terminal do something, since what a model writes is not to be trusted.

    Such a character becomes its escape, as `\\u001b`. It is JSON's too, so that a line of JSON says the same as before.
    """
    return _ACTS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first column to the left, the others to the right."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)
