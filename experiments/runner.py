"""Run an experiment once: its result is a folder named by everything that decides its numbers.

1. The key is a hash of the configuration (files by their content), the experiment's `VERSION`, and the weights' sha256.
2. A whole folder under that key is read, not computed again.
3. An experiment hands each measurement (a cell, mostly one model × seed) to `keep`, which writes it as soon as it is there:
   a run that was stopped goes on with the first cell that is missing.
4. The folder holds `result.json`, the same bytes whenever it is computed; `tensors.safetensors` where cells have tensors;
   `timing.json`, which is what the clock said; and `manifest.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from experiments.registry import Experiment
from experiments.result import Facts, Result
from experiments.shared.subjects import ExperimentConfig, Subject
from triggerlens import Manifest, UserError, check_destination, read_artifact, sha256_file, write_json, writing_artifact

RESULTS = Path(__file__).parent / "results"
"""The results that come with the project, and where new ones go by default."""
KIND = "experiment"

Keep = Callable[[str, Callable[[], Facts]], Facts]
"""Gives the facts of a cell by name: those kept, or those that the function computes now."""


def compute(name: str, measure: Callable[[], Facts]) -> Facts:
    """The `Keep` that keeps nothing: what `run(config)` uses by itself."""
    return measure()


def run_experiment(experiment: Experiment, config: ExperimentConfig, root: str | Path = RESULTS) -> tuple[Result, Path]:
    """The result under this configuration's key, computed where it is not there yet, and its folder.

    Raises:
        UserError: a model or file that cannot be used, a damaged result, or a folder that cannot be written.
    """
    module = experiment.load()
    facts = config_facts(config)
    key = result_key(experiment.name, module.VERSION, facts)
    folder = Path(root) / experiment.name / key
    if folder.exists():
        return read_result(folder), folder
    drafts = folder.with_name(f".{key}.cells")
    seconds: dict[str, float] = {}
    with tqdm(desc=experiment.name, unit="cell", disable=None) as bar:
        found = module.run(config, _keeper(drafts, seconds, bar))
    own = {"experiment": experiment.name, "key": key, "version": module.VERSION}
    tensors = {f"{name}/{at}": one for name, cell in found.cells.items() for at, one in _tensors(cell).items()}
    cells = {name: _plain(cell) for name, cell in found.cells.items()}
    result = dataclasses.replace(
        found, cells=cells, preset=preset_of(module, config), config=json_config(config), **own
    )
    write_result(folder, result, tensors, seconds, facts)
    shutil.rmtree(drafts, ignore_errors=True)
    return read_result(folder), folder


def preset_of(module: Any, config: ExperimentConfig) -> str:
    """`full` for an experiment's own configuration, `quick` for its quick one, else `custom`."""
    facts = config_facts(config)
    for name, fields in (("full", {}), ("quick", module.QUICK)):
        if config_facts(module.Config(**fields)) == facts:
            return name
    return "custom"


def write_result(
    folder: Path,
    result: Result,
    tensors: Mapping[str, Tensor],
    seconds: Mapping[str, float],
    facts: Mapping[str, Any],
) -> None:
    """Write a result's folder.

    Args:
        folder: named by the key.
        result: what was found.
        tensors: of all cells.
        seconds: wall time of each cell.
        facts: what the key was made of.
    """
    manifest = Manifest(KIND, command=f"experiment-run {result.experiment}", config=dict(facts))
    with writing_artifact(folder, manifest) as draft:
        write_json(draft / "result.json", result.to_json())
        machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
        write_json(
            draft / "timing.json",
            {"seconds": round(sum(seconds.values()), 1), "cells": dict(seconds), "machine": machine},
        )
        if tensors:
            save_file({name: one.contiguous() for name, one in tensors.items()}, draft / "tensors.safetensors")


def read_result(folder: str | Path) -> Result:
    """A finished result, its files verified.

    Raises:
        UserError: no result there, or one of its files is damaged.
    """
    read_artifact(folder, KIND)
    try:
        return Result.from_json(json.loads((Path(folder) / "result.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"{Path(folder) / 'result.json'}: not a result of this version: {error}") from error


def read_results(root: str | Path, name: str) -> list[Result]:
    """Every finished result of an experiment, by key."""
    return [read_result(path.parent) for path in sorted((Path(root) / name).glob("[!.]*/manifest.json"))]


def result_key(name: str, version: int, facts: Mapping[str, Any]) -> str:
    """Names everything that decides the numbers."""
    body = json.dumps([name, version, facts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def config_facts(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as the key takes it: models and files by their sha256, wherever they lie."""
    facts = {item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.name != "device"}
    return {name: _fact(value) for name, value in facts.items()}


def json_config(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as a reader takes it: names, without the folders that files and models lie in."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=lambda path: Path(path).name))


def _fact(value: Any) -> Any:
    if isinstance(value, Subject):
        return value.identity()
    if isinstance(value, Path):
        if not value.is_file():
            raise UserError(f"{value}: no such file")
        return sha256_file(value)
    if isinstance(value, tuple | list):
        return [_fact(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _fact(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return value


def _keeper(drafts: Path, seconds: dict[str, float], bar: Any) -> Keep:
    """A `Keep` with a folder for each cell; what is whole there is not computed again."""

    def keep(name: str, measure: Callable[[], Facts]) -> Facts:
        bar.set_postfix_str(name)
        cell = drafts / hashlib.sha256(name.encode()).hexdigest()[:16]
        if not _is_whole(cell):
            start = time.perf_counter()
            facts = measure()
            _write_cell(cell, name, facts, round(time.perf_counter() - start, 2))
        facts, seconds[name] = _read_cell(cell)
        bar.update()
        return facts

    return keep


def _is_whole(cell: Path) -> bool:
    try:
        read_artifact(cell, "cell")
    except UserError:
        return False
    return True


def _write_cell(cell: Path, name: str, facts: Facts, seconds: float) -> None:
    if cell.exists():
        shutil.rmtree(check_destination(cell, overwrite=True))
    with writing_artifact(cell, Manifest("cell", config={"name": name})) as draft:
        write_json(draft / "cell.json", {"facts": _plain(facts), "seconds": seconds})
        if tensors := _tensors(facts):
            save_file({at: one.contiguous() for at, one in tensors.items()}, draft / "tensors.safetensors")


def _read_cell(cell: Path) -> tuple[Facts, float]:
    """Facts are always read back, so that a run that went on gives the same bytes as one that was never stopped."""
    found = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
    path = cell / "tensors.safetensors"
    return found["facts"] | (load_file(path) if path.is_file() else {}), found["seconds"]


def _tensors(facts: Facts) -> dict[str, Tensor]:
    return {name: one for name, one in facts.items() if isinstance(one, Tensor)}


def _plain(facts: Facts) -> Facts:
    return {name: one for name, one in facts.items() if not isinstance(one, Tensor)}
