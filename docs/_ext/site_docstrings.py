"""Docstrings are plain text with names in `backticks`; here they become reStructuredText before Sphinx reads them.

Characters that mean something there (`*args`, `|a|`, `name_`) are escaped outside of code, and code gets its second backtick.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(``.+?``|`[^`\n]+`)")
_SPECIAL = re.compile(r"([*|\\])|(?<=\w)(_)(?=[^\w`]|$)")


def escape_line(line: str) -> str:
    """A line of a docstring as reStructuredText."""
    parts = _CODE.split(line)
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = f"``{part.strip('`')}``"
        else:
            parts[index] = _SPECIAL.sub(lambda match: "\\" + match.group(0), part)
    return "".join(parts)


def process(app: Sphinx, what: str, name: str, subject: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place."""
    lines[:] = [escape_line(line) for line in lines]
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")  # or napoleon takes what stands before a colon for a type


def shorten(
    app: Sphinx, what: str, name: str, subject: Any, options: Any, signature: str | None, returned: str | None
) -> Any:
    """`...` for a field that each instance makes anew: `<factory>` is not Python, and leaves the whole signature unread."""
    return (signature or "").replace("<factory>", "...") or None, returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before napoleon reads the sections Args, Returns and Raises (priority 500)."""
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
