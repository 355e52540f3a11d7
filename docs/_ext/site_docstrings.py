"""The pages of the API: in what order a package's names stand, and docstrings, which are plain text with names in `backticks` and become
reStructuredText before Sphinx reads them.

Characters that mean something there (`*args`, `|a|`, `name_`) are escaped outside of code, and code gets its second backtick.
"""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

API = Path(__file__).parents[1] / "api"
ROOMS = sorted({path.stem for path in API.glob("*.md")} - {"index"})
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


def started_with() -> list[str]:
    """The names, as `package.name`, that the first page of the API links, in its order."""
    return re.findall(r"\{py:\w+\}`(\w+\.\w+)`", (API / "index.md").read_text(encoding="utf-8"))


def in_order(room: str) -> list[str]:
    """The names of a package: first those to start with, then the others as its `__init__.pyi` lists them."""
    stub = Path(__file__).parents[2] / room / "__init__.pyi"
    imports = [node for node in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    first = [name for own, _, name in (full.partition(".") for full in started_with()) if own == room]
    return list(dict.fromkeys([*first, *(alias.name for node in imports for alias in node.names)]))


def order_faces(app: Sphinx) -> None:
    """Autodoc follows `__all__`, which lazy_loader sorts by the alphabet."""
    for room in ROOMS:
        face = import_module(room)
        face.__all__ = [
            *(name for name in in_order(room) if name in face.__all__),
            *sorted({*face.__all__} - {*in_order(room)}),
        ]


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
    app.connect("builder-inited", order_faces)
    app.connect("builder-inited", plain_fields)
    app.connect("doctree-read", drop_false_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
