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
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, get_type_hints

import tyro

from triggerlens import UserError

Config = TypeVar("Config")


def console(
    config_class: type[Config],
    run: Callable[[Config], None],
    arguments: Sequence[str] | None = None,
    default: Config | None = None,
) -> None:
    """Parse the command line into `config_class`, whose fields and docstrings are the options, and run.

    Args:
        config_class: a dataclass.
        run: the command.
        arguments: words of the command line; those of this process where None.
        default: where given, what options have that are not asked for.
    """
    defaults: dict[str, Any] = {} if default is None else {"default": default}
    try:
        run(tyro.cli(config_class, args=arguments, description=inspect.getdoc(config_class), **defaults))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        where = error.filename or tempfile.gettempdir()
        print(f"error: {where}: {error.strerror}; free space there, or set TMPDIR to another folder", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on where it stopped", file=sys.stderr)
        sys.exit(130)


def emit(value: Any, *, as_json: bool, text: str) -> None:
    """Print the result on stdout: one JSON object, or text that a person can read."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a character gets its number
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(json.dumps(value, allow_nan=False, ensure_ascii=False) if as_json else text, flush=True)
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again when it ends
        raise UserError(
            "the output was closed before the result was printed; what was written to files is complete"
        ) from error


def config_dict(config: Any, *, without: Sequence[str] = ("out", "overwrite", "json", "store")) -> dict[str, Any]:
    """The part of a configuration that can change a result, for the manifest: every option under its own name.

    A room's settings that a command embeds are options like its own; what is no option is left out. Paths are as the user
    wrote them.
    """
    return {
        name: value if isinstance(value, int | float | bool | None) else str(value)
        for name, value in _options(config)
        if name not in without
    }


def _options(config: Any) -> Iterator[tuple[str, Any]]:
    """Names, as in Python (`clean_twin` of `--clean-twin`), and values of the options of a configuration."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        facts = getattr(hints[field.name], "__metadata__", ())
        value = getattr(config, field.name)
        if tyro.conf.Suppress in facts:
            continue
        if dataclasses.is_dataclass(value):
            yield from _options(value)
            continue
        given = next((name for fact in facts if (name := getattr(fact, "name", None))), field.name)
        yield given.replace("-", "_").lower(), value
