"""Docstrings are plain text with names in `backticks`; here they become reStructuredText before Sphinx reads them.

Characters that mean something there (`*args`, `|a|`, `name_`) are escaped outside of code, and code gets its second backtick.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOMS = sorted({path.stem for path in (Path(__file__).parents[1] / "api").glob("*.md")} - {"index"})
"""Each has a page of the API."""
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


_of_fields: dict[str, list[str]] = {}
"""Docstrings of attributes as they were, by name: napoleon takes what stands before a colon for a type."""


def process(app: Sphinx, what: str, name: str, subject: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place."""
    lines[:] = [escape_line(line) for line in lines]
    if what in ("attribute", "data", "property"):
        _of_fields[name] = lines.copy()


def restore(app: Sphinx, what: str, name: str, subject: Any, options: Any, lines: list[str]) -> None:
    """Give an attribute its docstring back."""
    lines[:] = _of_fields.pop(name, lines)


def plain_fields(app: Sphinx) -> None:
    """Fields of dataclasses without the annotations that only the command line needs."""
    for room in ROOMS:
        face = import_module(room)
        for subject in (getattr(face, name) for name in face.__all__):
            if isinstance(subject, type) and is_dataclass(subject) and room in subject.__module__:
                with suppress(
                    NameError
                ):  # a type that is imported for type checkers alone; then there is nothing to drop
                    _drop_extras(subject)


def _drop_extras(kind: type) -> None:
    own = kind.__annotations__
    extras = get_type_hints(kind, include_extras=True)
    plain = {name: hint for name, hint in get_type_hints(kind).items() if name in own and hint != extras[name]}
    own |= plain
    kind.__init__.__annotations__ |= plain


def shorten(
    app: Sphinx, what: str, name: str, subject: Any, options: Any, signature: str | None, returned: str | None
) -> Any:
    """`...` for a field that each instance makes anew: `<factory>` is not Python, and leaves the whole signature unread."""
    return (signature or "").replace("<factory>", "...") or None, returned


def drop_false_links(app: Sphinx, doctree: nodes.document) -> None:
    """The axes of a shape, as in `Float[Tensor, "position"]`, are no names of the API."""
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link.astext()[:1] in ("'", '"'):
            link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before napoleon reads the sections Args, Returns and Raises (priority 500)."""
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-process-docstring", restore, priority=900)
    app.connect("autodoc-process-signature", shorten)
    app.connect("builder-inited", plain_fields)
    app.connect("doctree-read", drop_false_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
