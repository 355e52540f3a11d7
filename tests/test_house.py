"""The plan of the house, held over the syntax trees: floors, faces, no circles, small files and functions."""

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "triggerlens": 0,
    "hooked": 1,
    "organisms": 2,
    "probes": 2,
    "patching": 2,
    "sae": 2,
    "scanning": 2,
    "experiments": 3,
    "figures": 4,
    "commands": 5,
}
TREES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for room in FLOORS
    for path in sorted((ROOT / room).rglob("*.py"))
}


def imports(tree):
    """Full name of each module that is imported anywhere in a file, with the line; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are by full path"
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def module_name(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_only_go_down():
    """Also none between rooms of one floor."""
    wrong = [
        f"{path}:{line} imports {name}"
        for path, tree in TREES.items()
        for name, line in imports(tree)
        if (other := name.split(".")[0]) != path.parts[0] and FLOORS.get(other, -1) >= FLOORS[path.parts[0]]
    ]
    assert not wrong


def test_other_rooms_are_entered_by_their_face():
    """`from hooked import load_model`, never `from hooked.load import load_model`."""
    wrong = [
        f"{path}:{node.lineno} {ast.unparse(node)}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if (room := name.split(".")[0]) in FLOORS and room != path.parts[0] and "." in name
    ]
    assert not wrong


def test_a_face_names_what_exists_and_hides_no_module():
    """A name that equals a module of the room would be taken by Python for the module."""
    for stub in sorted(path for room in FLOORS for path in (ROOT / room).rglob("__init__.pyi")):
        inside = {path.stem for path in stub.parent.glob("*.py")} | {
            path.name for path in stub.parent.iterdir() if path.is_dir()
        }
        for module, names in re.findall(r"from \.([\w.]+) import (\([^)]*\)|[^\n]*)", stub.read_text(encoding="utf-8")):
            exported = re.findall(r"(\w+) as (\w+)", names)
            assert all(one == other and one not in inside for one, other in exported), stub
            base = stub.parent.joinpath(*module.split("."))
            assert base.with_suffix(".py").is_file() or (base / "__init__.pyi").is_file(), f"{stub}: {module}"


def circles(uses):
    """Modules that reach themselves."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for other in uses[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    return [name for name in uses if name in reached(name)]


def test_no_files_import_each_other_in_a_circle():
    modules = {module_name(path) for path in TREES if path.name != "__init__.py"}
    uses = {
        module_name(path): {name for name, _ in imports(tree) if name in modules}
        for path, tree in TREES.items()
        if path.name != "__init__.py"
    }
    assert circles(uses) == []
    assert sorted(circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == ["a", "b", "c"]


def test_a_folder_has_at_most_sixteen_files():
    folders = [path.parent for path in TREES if path.name != "__init__.py"]
    assert not {folder: count for folder in folders if (count := folders.count(folder)) > 16}


def test_functions_fit_on_a_screen():
    lengths = {
        f"{path}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: length for name, length in lengths.items() if length > 60}
    assert statistics.median(lengths.values()) <= 8


@pytest.mark.parametrize("module", ["pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"])
def test_nothing_is_pickled(module):
    assert not [path for path, tree in TREES.items() if any(name.split(".")[0] == module for name, _ in imports(tree))]
