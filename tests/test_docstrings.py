"""What a room exports says what it is: each function, each class, and each public field, property and method of these.

Held over the syntax trees, as `test_architecture.py`; the pages of the API show what is written here.
"""

import ast
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.pyi"))


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """Module of each name that a file, or a face, takes from elsewhere; a face's begins with a dot."""
    return {
        alias.asname or alias.name: "." * node.level + (node.module or "")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def file_of(module, name):
    """The file that defines a name, faces looked through; None for what is not of this project."""
    folder = ROOT.joinpath(*module.split("."))
    if (face := folder / "__init__.pyi").is_file():
        inside = imported(parsed(face))
        return file_of(module + inside[name], name) if name in inside else None
    return path if (path := folder.with_suffix(".py")).is_file() else None


def definition(path, name):
    """The class or function of a name; None for a constant or a type."""
    kinds = ast.ClassDef | ast.FunctionDef
    return next((node for node in parsed(path).body if isinstance(node, kinds) and node.name == name), None)


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def told(path, kind):
    """Of each public member whether it, or what it overrides in a base of this project, says what it is."""
    members = {}
    for base in kind.bases:
        name = ast.unparse(base).partition("[")[0]
        where = path if definition(path, name) else file_of(imported(parsed(path)).get(name, "none"), name)
        if where and (inherited := definition(where, name)):
            members |= told(where, inherited)
    for node, after in pairwise([*kind.body, None]):
        if isinstance(node, ast.FunctionDef):
            names, says = [node.name], bool(ast.get_docstring(node))
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [own.id for target in targets for own in ast.walk(target) if isinstance(own, ast.Name)]
            says = is_text(after)
        else:
            continue
        members |= {name: says or members.get(name, False) for name in names if not name.startswith("_")}
    return members


def untold(room):
    """The exported names, and their members, without a docstring."""
    for name in imported(parsed(ROOT / room / "__init__.pyi")):
        path = file_of(room, name)
        subject = definition(path, name)
        if subject is None:
            continue
        if not ast.get_docstring(subject):
            yield f"{path.relative_to(ROOT)}: {name}"
        if isinstance(subject, ast.ClassDef):
            yield from (
                f"{path.relative_to(ROOT)}: {name}.{own}" for own, says in told(path, subject).items() if not says
            )


@pytest.mark.parametrize("room", ROOMS)
def test_whatever_is_exported_has_a_docstring(room):
    assert not list(untold(room))


def test_what_has_none_is_found(tmp_path):
    """A field without a line, though not what overrides one that has its line."""
    file = tmp_path / "told.py"
    file.write_text(
        'class Base:\n    a: int\n    """Said."""\n    b: int\n    def c(self): ...\nclass Kind(Base):\n    a = 1\n    d: int = 2\n'
    )
    assert told(file, definition(file, "Kind")) == {"a": True, "b": False, "c": False, "d": False}


def annotations():
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.AnnAssign):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.annotation


def test_no_annotation_holds_an_f_string():
    """Sphinx cannot read one, and would leave out every docstring of the module's fields without a word."""
    assert not [
        place for place, node in annotations() if any(isinstance(part, ast.JoinedStr) for part in ast.walk(node))
    ]
