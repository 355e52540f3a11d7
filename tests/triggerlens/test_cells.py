"""Cells of a long run: what is there is not computed again, what is damaged is, and another run's are never mixed in."""

from functools import partial
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from triggerlens import Busy, Cells, ExecutorConfig, UserError, cells_folder, in_turn, release_cells, share_cells


def test_a_cell_is_computed_once_and_read_back(tmp_path):
    calls = []

    def compute():
        calls.append(None)
        return {"auroc": 0.5, "names": ["a"], "rows": torch.arange(6.0).reshape(2, 3).T}

    cells = Cells(tmp_path / "cells", {"seed": 0})
    first = cells.keep("layer 3", compute)
    again = Cells(tmp_path / "cells", {"seed": 0}).keep("layer 3", compute)
    assert len(calls) == 1
    assert first["auroc"] == again["auroc"] == 0.5
    assert torch.equal(first["rows"], again["rows"])
    assert cells.seconds["layer 3"] >= 0


def test_a_damaged_cell_is_computed_anew(tmp_path):
    cells = Cells(tmp_path / "cells", {})
    cells.keep("one", lambda: {"value": 1})
    file = next((tmp_path / "cells").glob("*/cell.json"))
    file.write_text(file.read_text().replace("1", "7", 1))
    assert cells.keep("one", lambda: {"value": 2}) == {"value": 2}


def test_an_error_leaves_no_cell(tmp_path):
    cells = Cells(tmp_path / "cells", {})
    with pytest.raises(ZeroDivisionError):
        cells.keep("one", lambda: {"value": 1 / 0})
    assert cells.keep("one", lambda: {"value": 3}) == {"value": 3}


def test_another_runs_cells_are_not_mixed_in(tmp_path):
    Cells(tmp_path / "cells", {"seed": 0}).keep("one", lambda: {"value": 1})
    with pytest.raises(UserError, match="other settings"):
        Cells(tmp_path / "cells", {"seed": 1})


def killed_once_a_file_has_gone(name):
    """What removes a folder, killed after the file of this name."""

    class Killed(BaseException):
        pass

    def remove(folder, ignore_errors=False):
        for path in sorted(Path(folder).rglob(name)):
            path.unlink()
            raise Killed

    return Killed, remove


def test_cells_of_a_run_that_is_half_dropped_are_another_run_s_no_more(tmp_path, monkeypatch):
    folder = tmp_path / "cells"
    cells = Cells(folder, {"seed": 0})
    cells.keep("one", lambda: {"value": 1})
    killed, remove = killed_once_a_file_has_gone("run.json")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", remove)
        with pytest.raises(killed):
            cells.drop()
    assert not folder.exists(), "whoever looks sees all of it or nothing"
    assert Cells(folder, {"seed": 1}).keep("one", lambda: {"value": 2}) == {"value": 2}
    Cells(folder, {"seed": 1}).drop()
    assert not [*tmp_path.iterdir()], "what a kill has left aside goes with the next drop"


def test_cells_that_nothing_says_the_settings_of_are_computed_anew(tmp_path):
    Cells(tmp_path, {"seed": 0}).keep("one", lambda: {"value": 1})
    (tmp_path / "run.json").unlink()
    (tmp_path / "worker-0.log").write_text("a line")
    own = tmp_path / "my-figures"
    own.mkdir()
    (own / "one.svg").write_text("a figure")
    assert Cells(tmp_path, {"seed": 1}).keep("one", lambda: {"value": 2}) == {"value": 2}
    assert (tmp_path / "worker-0.log").read_text() == "a line"
    assert (own / "one.svg").read_text() == "a figure", "a folder that is no cell is somebody's own"


def test_a_cell_that_lost_its_manifest_is_computed_anew(tmp_path):
    cells = Cells(tmp_path, {})
    cells.keep("one", lambda: {"value": 1})
    next(tmp_path.glob("*/manifest.json")).unlink()
    assert cells.keep("one", lambda: {"value": 2}) == {"value": 2}


def test_dropped_cells_are_gone(tmp_path):
    cells = Cells(tmp_path / "cells", {})
    cells.keep("one", lambda: {"value": 1})
    cells.drop()
    assert not (tmp_path / "cells").exists()


def test_what_is_busy_is_asked_again_after_the_others_and_all_come_in_their_order():
    asked = []

    def ask(name):
        asked.append(name)
        if name == "b" and asked.count("b") < 3:
            raise Busy
        return name.upper()

    assert in_turn([partial(ask, name) for name in "abc"]) == ["A", "B", "C"]
    assert asked == ["a", "b", "c", "b", "b"]


def test_a_cell_that_another_process_is_at_is_not_computed_beside_it(tmp_path) -> None:
    cells, asked = Cells(tmp_path, wait=False), []

    def compute():
        with pytest.raises(Busy):
            Cells(tmp_path, wait=False).keep("a", lambda: asked.append("again") or {})
        return {"a": 1}

    assert cells.keep("a", compute) == {"a": 1}
    assert Cells(tmp_path, wait=False).keep("a", lambda: asked.append("again") or {}) == {"a": 1}
    assert asked == []


def test_a_refusal_before_the_first_cell_leaves_nothing(tmp_path):
    folder = tmp_path / ".run.cells"

    def refused():
        print("a line in the log")
        raise UserError("too few pairs")

    with pytest.raises(UserError, match="too few pairs"), tqdm(disable=True) as bar:
        share_cells(refused, folder, ExecutorConfig(), bar)
    assert not folder.exists()
    Cells(folder).keep("first", lambda: {"rate": 0.5})
    with pytest.raises(UserError, match="too few pairs"), tqdm(disable=True) as bar:
        share_cells(refused, folder, ExecutorConfig(), bar)
    assert Cells(folder).keep("first", dict) == {"rate": 0.5}


@pytest.mark.parametrize(("seed", "computed"), [(0, []), (1, [1])])
def test_cells_that_are_released_serve_the_same_settings_and_are_dropped_by_others(tmp_path, seed, computed):
    out, anew = tmp_path / "out", []
    Cells(cells_folder(out), {"seed": 0}).keep("one", lambda: {"seed": 0})
    release_cells(out)
    cells = Cells(cells_folder(out), {"seed": seed})
    assert cells.keep("one", lambda: anew.append(seed) or {"seed": seed}) == {"seed": seed}
    assert anew == computed
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        Cells(cells_folder(out), {"seed": 1 - seed})
    release_cells(tmp_path / "none")
    assert not cells_folder(tmp_path / "none").exists()


def test_cells_that_are_made_after_another_process_has_dropped_the_run_say_whose_they_are(tmp_path):
    ours, theirs = (Cells(tmp_path / "cells", {"seed": 0}) for _ in range(2))
    theirs.drop()
    ours.keep("one", lambda: {"value": 0})
    with pytest.raises(UserError, match=r"an unfinished run with other settings \(seed\)"):
        Cells(tmp_path / "cells", {"seed": 1})
