"""One command on many models: each by itself in a folder of its own, one after another or by an executor.

1. A model's task is the command alone, with `--out` a folder under the common one; what it prints goes to `logs/NAME.log` there.
2. What is finished is left as it is; a command may say that it was finished with other settings, and then it is refused, or that something is missing that should
   have come after it, and then it goes on. A model that another driver is at is left to it.
3. One that fails is named with its reason and its log, and the others go on.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from commands._console import emit, interrupted
from commands._options import with_whole_paths
from triggerlens import MANIFEST, ExecutorConfig, Lost, UserError, locked, printable, run_tasks, text_table


@dataclass(frozen=True, kw_only=True)
class Many:
    """Further models, and where all are done."""

    more_models: tuple[str, ...] = ()
    """Further models, each with the same options; each model's folder is then `--out`/its name."""
    where: Annotated[ExecutorConfig, tyro.conf.arg(name="")] = field(default_factory=ExecutorConfig)

    def __post_init__(self) -> None:
        if not self.more_models and self.where != ExecutorConfig():
            raise UserError("--executor, --jobs: one model is one task; name others with --more-models")


@dataclass(frozen=True)
class Told:
    """What came of a model."""

    name: str
    model: str
    out: str
    reason: str = ""
    """Why it failed."""


Unlike = Callable[[Any], Sequence[str]]
"""In what the finished folder at a configuration's `out` differs from what that asks for."""


Missing = Callable[[Any], Sequence[str]]
"""What should have come after the finished folder at a configuration's `out` and is not there."""


def _nothing(config: Any) -> Sequence[str]:
    return ()


def over_models(run: Callable[[Any], None], config: Any, unlike: Unlike, missing: Missing = _nothing) -> list[Told]:
    """What comes of each model, in the order given.

    Args:
        run: the command, importable by its name.
        config: its configuration, with `model`, `out`, `overwrite` and `many`.
        unlike: asked of what is finished, importable by its name, too.
        missing: the same; where something is, the command goes on.

    Raises:
        UserError: a model without a name, two of one name, or the executor cannot be had.
    """
    models = (config.model, *config.many.more_models)
    names = [_name(model) for model in models]
    if len(set(names)) < len(names):
        raise UserError(f"two models are called {max(names, key=names.count)}: give their folders different names")
    root = Path(config.out).resolve()
    for folder in ("logs", ".locks"):
        try:
            (root / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{root}: cannot be written: {error.strerror}; give another --out") from error
    tasks = [_task(config, model, root / name) for model, name in zip(models, names, strict=True)]
    told: dict[Path, Told] = {}
    for done in run_tasks(partial(_alone, run, unlike, missing, root), tasks, config.many.where):
        out, result = done.task.out, done.result
        own = Told(out.name, done.task.model, str(out), result.reason) if isinstance(result, Lost) else result
        told[out] = own
        _say(own, root, len(told), len(tasks))
    return [told[task.out] for task in tasks]


def _name(model: str) -> str:
    """What a model's folder is called: of `.` and `..`, where they lead.

    Raises:
        UserError: it has no name.
    """
    own = Path(model)
    name = own.resolve().name if own.name in ("", "..") else own.name
    if not model or not name:
        raise UserError(
            f"{model!r}: a model without a name, which its folder under --out would have; give another path"
        )
    return name


def _task(config: Any, model: str, out: Path) -> Any:
    """The command on one model alone; where its folder is a link, by the link's own name."""
    return replace(with_whole_paths(replace(config, model=model, many=Many())), out=out)


def _alone(run: Callable[[Any], None], unlike: Unlike, missing: Missing, root: Path, config: Any) -> Told:
    """The command on one model, in a worker.

    Raises:
        Busy: another driver is at it.
    """
    out = Path(config.out)
    log = root / "logs" / f"{out.name}.log"
    with locked(root / ".locks" / out.name, wait=False):
        if (out / MANIFEST).is_file() and not config.overwrite:
            reason = _finished(unlike, config)
            if reason or not missing(config):
                return Told(out.name, config.model, str(out), reason)
        with (
            log.open("w", encoding="utf-8", errors="backslashreplace") as stream,
            redirect_stdout(stream),
            redirect_stderr(stream),
        ):
            reason = _failure(run, config)
    return Told(out.name, config.model, str(out), reason)


def _finished(unlike: Unlike, config: Any) -> str:
    """Why a folder that is there already is not what is asked for; empty where it is."""
    try:
        differs = unlike(config)
    except (UserError, OSError) as error:  # a file is gone
        return " ".join(str(error).split())
    if not differs:
        return ""
    return f"already finished with another {', '.join(differs)}; give another --out, or --overwrite to replace it"


def _failure(run: Callable[[Any], None], config: Any) -> str:
    """Why the command fails, of which the log says more; empty where it does not.

    Raises:
        KeyboardInterrupt: it failed of that.
    """
    try:
        run(config)
    except SystemExit:  # how a command says what it found
        return ""
    except Exception as error:  # whatever a library raises: the other models go on
        if interrupted():
            raise KeyboardInterrupt from error
        if isinstance(error, UserError):
            reason = " ".join(str(error).split())
            print(printable(f"error: {reason}"), file=sys.stderr)
            return reason
        traceback.print_exc()
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return ""


def _say(told: Told, root: Path, done: int, total: int) -> None:
    """A line on stderr: what is done, and how to do alone what failed."""
    if told.reason:
        log = root / "logs" / f"{told.name}.log"
        line = f"{told.name}: {told.reason}; log: {log}; alone: give {told.model} --out {told.out}"
        print(printable(line), file=sys.stderr)
    elif sys.stderr.isatty():
        print(f"{done} of {total}: {told.name}", file=sys.stderr)


def emit_many(told: Sequence[Told], facts: Callable[[Path], dict[str, Any]], *, as_json: bool) -> None:
    """Print a line for each model, or one JSON object.

    Args:
        told: what came of them.
        facts: what to say of a finished folder, by name.
        as_json: as an object.

    Raises:
        UserError: a model failed.
    """
    rows: list[dict[str, Any]] = [
        {"model": own.model, "out": own.out, **({"failed": own.reason} if own.reason else facts(Path(own.out)))}
        for own in told
    ]
    head = list(dict.fromkeys(key for row in rows for key in row))
    emit(
        {"models": rows},
        as_json=as_json,
        text=text_table(head, [[str(row.get(key, "")) for key in head] for row in rows]),
    )
    if failed := [own.name for own in told if own.reason]:
        raise UserError(f"{len(failed)} of {len(told)} models failed ({', '.join(failed)}); each is named above")
