"""The plan of the project, held over the syntax trees: floors, faces, no circles, small files and functions; and over running
Python: faces and settings cost no torch, and every name of a face is there.
"""

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from forked import start
from forked_work import names_of_faces

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
ROOMS = [room for room in FLOORS if (ROOT / room).is_dir()]
LONGEST_FUNCTION, MEDIAN_FUNCTION, FILES_IN_A_FOLDER = 60, 8, 16


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


FILES = {
    path.relative_to(ROOT): parsed(path)
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
    if path.name != "__init__.py"
}
FACES = {path.relative_to(ROOT).parent: parsed(path) for room in ROOMS for path in (ROOT / room).rglob("__init__.pyi")}


def module_name(path):
    return ".".join(path.with_suffix("").parts)


MODULES = {module_name(path) for path in FILES}


def exported(folder):
    """Where each name of a face is defined, by its stub: a module, or another face."""
    return {
        alias.asname: f"{'.'.join(folder.parts)}.{node.module}"
        for node in FACES[folder].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def imports(tree):
    """(line, module, name) of every import anywhere in a file, under `TYPE_CHECKING` and in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are by full path"
            yield from ((node.lineno, node.module, alias.name) for alias in node.names)


def target(module, name):
    """The file that an import reads, faces looked through; None for what is not of this project."""
    folder = Path(*module.split("."))
    if folder in FACES and name in (names := exported(folder)):
        return target(names[name], name)
    if name is not None and f"{module}.{name}" in MODULES:
        return f"{module}.{name}"
    return module if module in MODULES else None


def between_rooms():
    """(file, line, room, other room) of every import of another room."""
    for path, tree in FILES.items():
        for line, module, _ in imports(tree):
            if (other := module.split(".")[0]) in FLOORS and other != path.parts[0]:
                yield path, line, path.parts[0], other


def circles(uses):
    """Modules that reach themselves."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for other in uses[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    return sorted(name for name in uses if name in reached(name))


def run_python(code):
    """What Python prints, started anew in the project."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_imports_only_go_down():
    """Never up, and never to another room of one floor."""
    assert not [
        f"{path}:{line} {room} imports {other}"
        for path, line, room, other in between_rooms()
        if FLOORS[other] >= FLOORS[room]
    ]


def entered(path, tree):
    """(line, room, name) of everything that a file takes from another room; a name with a dot goes past the face.

    Both `from hooked import load_model` and `import hooked` with `hooked.load_model` are by the face.
    """
    for line, module, name in imports(tree):
        other, _, inside = module.partition(".")
        if other in ROOMS and other != path.parts[0] and (inside or name):
            yield line, other, f"{inside}.{name}" if inside else name
    whole = {module for _, module, name in imports(tree) if name is None} & set(ROOMS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in whole:
            yield node.lineno, node.value.id, node.attr


def test_other_rooms_are_entered_by_their_face():
    """`from hooked import load_model`, never `from hooked.load import load_model`, nor a module as if it were a name."""
    faces = {room: {"__version__", *exported(Path(room))} for room in ROOMS if Path(room) in FACES}
    # Plots are modules with names of their own: `from probes import plots`.
    assert not [
        f"{path}:{line} {room}: {name}"
        for path, tree in FILES.items()
        for line, room, name in entered(path, tree)
        if name not in faces.get(room, ()) and name != "plots"
    ]


def test_figures_know_results_and_no_model():
    assert {other for _, _, room, other in between_rooms() if room == "figures"} <= {"triggerlens", "experiments"}


def test_no_files_import_each_other_in_a_circle():
    uses = {
        module_name(path): {used for _, module, name in imports(tree) if (used := target(module, name))}
        for path, tree in FILES.items()
    }
    assert circles(uses) == []


def test_circles_are_found_also_through_a_face():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert target("hooked", "load_model") == "hooked.load"
    assert target("hooked.prompts", "splits") == target("hooked", "Splits") == "hooked.prompts.splits"
    assert target("torch", "Tensor") is None


def test_the_docs_show_every_room():
    """A page of the API for each that has a face, and all in the picture."""
    pages = {path.stem for path in (ROOT / "docs" / "api").glob("*.md")} - {"index"}
    assert pages == {room for room in ROOMS if Path(room) in FACES}
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert set(re.findall(r'class="room">(\w+)/<', picture)) == set(ROOMS)


@pytest.mark.parametrize("folder", sorted(FACES), ids=str)
def test_a_face_names_what_exists_and_hides_no_module(folder):
    """A name that equals a module of the room would be taken by Python for the module."""
    inside = {path.stem for path in (ROOT / folder).iterdir() if path.suffix == ".py" or path.is_dir()}
    names = exported(folder)
    assert not set(names) & inside
    for node in FACES[folder].body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 1
            assert all(alias.asname == alias.name for alias in node.names)
    assert all(module in MODULES or Path(*module.split(".")) in FACES for module in names.values())


def test_faces_and_settings_cost_no_torch():
    """Importing a room, or what its command line is made of, is quick: nothing heavy is loaded until it is used."""
    settings = sorted(name for name in MODULES if name.endswith(".config"))
    code = "import sys, importlib\nfor name in {}:\n importlib.import_module(name)\n if 'torch' in sys.modules: sys.exit(name)"
    assert run_python(code.format([*ROOMS, *settings])) == ""


def test_every_name_of_a_face_is_there(tmp_path):
    """And is the object of that name, not a module that bears it."""
    told = tmp_path / "told"
    started = start(names_of_faces, [".".join(folder.parts) for folder in FACES], out=told)
    started.join()
    assert (started.exitcode, told.read_text()) == (0, "")


def test_a_folder_has_few_files():
    counts = Counter(path.parent for path in FILES)
    assert not {str(folder): count for folder, count in counts.items() if count > FILES_IN_A_FOLDER}


def test_functions_fit_on_a_screen():
    lengths = {
        f"{path}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION}
    assert statistics.median(lengths.values()) <= MEDIAN_FUNCTION


@pytest.mark.parametrize("module", ["pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"])
def test_nothing_is_pickled(module):
    assert not [
        path for path, tree in FILES.items() if any(name.split(".")[0] == module for _, name, _ in imports(tree))
    ]
