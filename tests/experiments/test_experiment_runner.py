"""A result is computed once, named by what decides it, and survives being stopped."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from tiny_models import tiny_checkpoint
from tiny_prompts import prompt_file

import experiments
from experiments import (
    EXPERIMENTS,
    RESULTS,
    Experiment,
    Finding,
    ModelsConfig,
    Result,
    Specimen,
    Subject,
    read_result,
    run_experiment,
)
from experiments.runner import config_facts, result_key
from experiments.shared.grid import measure_all
from hooked import load_model, weights_sha256
from triggerlens import Estimate, UserError, keep_nothing


@dataclass(frozen=True, kw_only=True)
class Config(ModelsConfig):
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Nothing:
    kind: Literal["nothing"] = "nothing"


class Counting(Experiment):
    """Gives the number of its seed, and counts how often it was asked."""

    name, title, claims = "counting", "counts", (1,)
    VERSION, Config, QUICK, Arm = 1, Config, {"seeds": (0,)}, Nothing

    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at

    def run(self, config, keep=keep_nothing):
        def cell(prepared, seed):
            if seed == self.stop_at:
                raise KeyboardInterrupt
            self.calls.append((prepared, seed))
            return {"seed": seed, "third": seed / 3, "vector": torch.full((2,), float(seed))}

        cells = measure_all(config, keep, lambda subject, name: name.rsplit("/", 1)[-1], cell)
        finding = Finding(1, "AUROC", Specimen("m"), Nothing(), Estimate(0.5, 0.0, 1.0), 1, "nothing")
        return Result((finding,), cells, ("a note",))


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "counting", Counting())


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    return Subject(
        str(tiny_checkpoint(folder / "model")),
        prompt_file(folder / "prompts.jsonl"),
        str(tiny_checkpoint(folder / "twin", seed=1)),
    )


@pytest.fixture
def config(subject):
    return Config(subjects=(subject,))


def files(folder):
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("timing.json", "manifest.json")
    }


def measured(config, root, stop_at=None):
    """What was found, where, and what had to be computed for it."""
    experiment = Counting(stop_at)
    if stop_at is None:
        return *run_experiment(experiment, config, root), experiment.calls
    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment, config, root)
    return None, root / "counting", experiment.calls


def test_the_model_and_its_twin_are_measured_at_every_seed_and_read_back(config, tmp_path):
    result, folder, calls = measured(config, tmp_path)
    assert calls == [(name, seed) for name in ("model", "twin") for seed in (0, 1, 2)]
    assert read_result(folder) == result
    assert result.cells[f"{config.subjects[0].model}/clean twin/seed-2"] == {"seed": 2, "third": 2 / 3}
    assert result.config["seeds"] == [0, 1, 2]
    timing = json.loads((folder / "timing.json").read_text())
    assert set(timing["cells"]) == set(result.cells)


def test_the_same_key_is_never_computed_twice(config, tmp_path):
    first = measured(config, tmp_path)
    again = measured(config, tmp_path)
    assert again[:2] == first[:2]
    assert again[2] == []


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(config, tmp_path):
    _, _, before = measured(config, tmp_path / "stopped", stop_at=1)
    _, folder, rest = measured(config, tmp_path / "stopped")
    _, whole, _ = measured(config, tmp_path / "whole")
    assert before == [("model", 0)]
    assert ("model", 0) not in rest
    assert len(rest) == 5
    assert files(folder) == files(whole)
    assert {"result.json", "tensors.safetensors"} == set(files(folder))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "no leftovers"


def test_a_damaged_cell_costs_only_itself(config, tmp_path):
    _, root, before = measured(config, tmp_path, stop_at=2)
    assert len(before) == 2
    (drafts,) = root.iterdir()
    next(path for path in sorted(drafts.iterdir()) if path.is_dir()).joinpath("cell.json").write_text("{}")
    assert len(measured(config, tmp_path)[2]) == 5


def test_a_damaged_result_is_named_and_not_read(config, tmp_path):
    _, folder, _ = measured(config, tmp_path)
    (folder / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"result\.json: damaged"):
        measured(config, tmp_path)


def test_the_key_depends_on_version_config_weights_and_prompts_and_not_on_where_they_lie(config, subject, tmp_path):
    import shutil
    from dataclasses import replace

    def key(one, version=1):
        return result_key("counting", version, config_facts(one))

    moved = tmp_path / "elsewhere"
    shutil.copytree(subject.model, moved)
    other = Subject(str(tiny_checkpoint(tmp_path / "other", seed=2)), subject.prompts, subject.twin)
    prompts = prompt_file(tmp_path / "p.jsonl", seed=5)
    keys = [
        key(config),
        key(config, version=2),
        key(replace(config, scale=2.0)),
        key(replace(config, seeds=(0,))),
        key(replace(config, subjects=(other,))),
        key(replace(config, subjects=(replace(subject, prompts=prompts),))),
        key(replace(config, subjects=(replace(subject, twin=None),))),
    ]
    assert len(set(keys)) == len(keys)
    assert key(replace(config, subjects=(replace(subject, model=str(moved)),))) == keys[0]
    assert key(replace(config, device="cpu")) == keys[0]


def test_weights_are_named_without_loading_them(subject):
    assert weights_sha256(subject.model) == load_model(subject.model, device="cpu").info.weights_sha256


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_committed_result_is_of_the_settings_code_and_weights_of_now(name):
    experiment = EXPERIMENTS[name]
    # A zoo does not ship: of its leaderboard the small run on the embedded models does.
    preset, fields = ("quick", experiment.QUICK) if name == "zoo-leaderboard" else ("full", {})
    key = result_key(name, experiment.VERSION, config_facts(experiment.Config(**fields)))
    assert read_result(RESULTS / name / key).preset == preset


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_a_name_of_the_room(name):
    kind = type(EXPERIMENTS[name])
    assert getattr(experiments, kind.__name__) is kind
