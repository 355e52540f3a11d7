"""What all commands share: arguments from a config dataclass, one-line errors, exit codes, plain tables.

Exit status: 0 done; 2 the user's input was unusable (one line on stderr); 130 interrupted; 1 anything else.
"""

from __future__ import annotations

import dataclasses
import errno
import inspect
import io
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_type_hints

import tyro

from commands import INTERRUPTED
from triggerlens import UserError, printable

Config = TypeVar("Config")
_NO_MEMORY = ("out of memory", "can't allocate memory", "Unable to allocate")
"""What torch and numpy say of memory that they do not get, of a GPU or here."""
_UNREADABLE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)
"""Of a file that is named and cannot be read or written: the user's to mend."""
_FULL = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
"""What libraries written in other languages say in exceptions of their own."""


def console(
    config_class: type[Config],
    run: Callable[[Config], None],
    arguments: Sequence[str] | None = None,
    default: Config | None = None,
    interrupted_line: Callable[[Config], str] = lambda config: INTERRUPTED,
) -> None:
    """Parse the command line into `config_class`, whose fields and docstrings are the options, and run.

    Args:
        config_class: a dataclass.
        run: the command.
        arguments: words of the command line; those of this process where None.
        default: where given, what options have that are not asked for.
        interrupted_line: what to say of a run that Ctrl-C ended.
    """
    config: Config | None = None
    defaults: dict[str, Any] = {} if default is None else {"default": default}
    with _interrupts():
        try:
            config = tyro.cli(config_class, args=arguments, description=inspect.getdoc(config_class), **defaults)
            run(config)
        except (Exception, KeyboardInterrupt) as error:
            # A library that is being imported may make another exception of an interrupt.
            if interrupted() or isinstance(error, KeyboardInterrupt):
                _end(130, INTERRUPTED if config is None else interrupted_line(config))
            if isinstance(error, UserError):
                _end(2, f"error: {' '.join(str(error).split())}")
            if (told := _full_disk(error) or _no_memory(error) or _unreadable(error)) is not None:
                _end(2, f"error: {told}")
            raise


def _end(status: int, line: str) -> NoReturn:
    print(printable(line), file=sys.stderr)
    sys.exit(status)


_noted: list[int] = []
"""Interrupts of the command that runs."""


def interrupted() -> bool:
    """Whether Ctrl-C was pressed since the command began: what fails then is taken to fail of that, whatever a library has made of it."""
    return bool(_noted)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Within, Ctrl-C raises KeyboardInterrupt and is noted. Another one does nothing while the command tidies up, and ends it where the first was swallowed: by
    a finaliser, in which Python drops every exception, or by a library.
    """

    def note(number: int, frame: Any) -> None:
        _noted.append(number)
        if not _of_interrupt(sys.exception()):
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN if _noted else before)
        _noted.clear()


def _of_interrupt(error: BaseException | None) -> bool:
    """Whether what is being handled is an interrupt, or was raised while one was."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _full_disk(error: BaseException) -> str | None:
    """What to say of a disk that is full or cannot be written, whichever library met it; None for another error."""
    named = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    if not named and not any(sign in str(error) for sign in _FULL):
        return None
    where = getattr(error, "filename", None) or tempfile.gettempdir()
    reason = getattr(error, "strerror", None) or "No space left on device"
    return f"{where}: {reason}; free space there, or set TMPDIR to another folder"


def _unreadable(error: BaseException) -> str | None:
    """What to say of a file that is not there, or that may not be used; None for another error."""
    if not isinstance(error, OSError) or error.errno not in _UNREADABLE or not isinstance(error.filename, str | Path):
        return None
    return f"{error.filename}: {error.strerror}"


def _no_memory(error: BaseException) -> str | None:
    """What to say of memory that was not there; None for another error."""
    if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _NO_MEMORY):
        return None
    said = " ".join(str(error).split())[:160]
    return f"out of memory{f' ({said})' if said else ''}; read fewer prompts or tokens at a time, or take --dtype bfloat16 or another --device, where the command has them"


def emit(value: Any, *, as_json: bool, text: str) -> None:
    """Print the result on stdout: one JSON object, or text that a person can read; in neither a character that a terminal acts on."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a character gets its number
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(printable(json.dumps(value, allow_nan=False, ensure_ascii=False) if as_json else text), flush=True)
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again when it ends
        raise UserError(
            "the output was closed before the result was printed; what was written to files is complete"
        ) from error


NO_PART = ("out", "overwrite", "json", "store", "more_models", "executor", "jobs", "address", "gpus_per_task")
"""Options that change no result: where it is computed and written."""


def config_dict(config: Any, *, without: Sequence[str] = NO_PART) -> dict[str, Any]:
    """The part of a configuration that can change a result, for the manifest: every option under its own name.

    A room's settings that a command embeds are options like its own; what is no option is left out. Paths are as the user
    wrote them.
    """
    return {
        name: value if isinstance(value, int | float | bool | None) else str(value)
        for name, value in _options(config)
        if name not in without
    }


def option_names(config_class: Any) -> dict[str, str]:
    """By field, the name of its option, as in Python (`position` of `aggregation`); what is no option is left out."""
    names = {}
    hints = get_type_hints(config_class, include_extras=True)
    for field in dataclasses.fields(config_class):
        facts = getattr(hints[field.name], "__metadata__", ())
        if tyro.conf.Suppress not in facts:
            given = next((name for fact in facts if (name := getattr(fact, "name", None))), field.name)
            names[field.name] = given.replace("-", "_").lower()
    return names


def _options(config: Any) -> Iterator[tuple[str, Any]]:
    """Names, as in Python (`clean_twin` of `--clean-twin`), and values of the options of a configuration."""
    for field, name in option_names(type(config)).items():
        value = getattr(config, field)
        if dataclasses.is_dataclass(value):
            yield from _options(value)
        else:
            yield name, value
