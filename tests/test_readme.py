"""What the README shows works as shown."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "example.py").write_text(code + "\nprint(len(ablated))\n")
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    outcome = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == "8"


def test_every_command_of_the_table_is_installed_and_no_other():
    named = set(re.findall(r"^\| `([a-z]+-[a-z]+) ", README, re.MULTILINE))
    scripts = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[1].split("\n[")[0]
    assert named == set(re.findall(r"^([a-z-]+) =", scripts, re.MULTILINE))


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$ make ([a-z]+)", README)) <= targets


def test_links_lead_to_files_and_to_headings():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    headings = {
        re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^## (.+)$", README, re.M)
    }
    assert len(links) > 15
    for link in links:
        assert link[1:] in headings if link.startswith("#") else (ROOT / link).is_file(), link


def test_the_rooms_import_only_downwards():
    floors = {
        "hooked": 0,
        "organisms": 1,
        "probes": 1,
        "patching": 1,
        "sae": 1,
        "experiments": 2,
        "figures": 3,
        "commands": 4,
    }
    for room, floor in floors.items():
        for path in (ROOT / room).rglob("*.py"):
            for name in re.findall(r"^\s*(?:from|import) ([a-z_]+)", path.read_text(), re.MULTILINE):
                assert name == room or floors.get(name, -1) < floor, f"{path} imports {name}"
