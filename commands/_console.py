"""The manner that all commands share: arguments from a config dataclass, one-line errors, exit codes, plain tables.

Exit status: 0 done; 2 the user's input was unusable (one line on stderr); 130 interrupted; 1 anything else.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from triggerlens import UserError

Config = TypeVar("Config")


def console(config_class: type[Config], run: Callable[[Config], None], arguments: Sequence[str] | None = None) -> None:
    """Parse the command line into `config_class`, whose fields and docstrings are the options, and run."""
    config = tyro.cli(config_class, args=arguments, description=inspect.getdoc(config_class))
    try:
        run(config)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on where it stopped", file=sys.stderr)
        sys.exit(130)


def emit(value: Any, *, as_json: bool, text: str) -> None:
    """Print the result on stdout: one JSON object, or text that a person can read."""
    print(json.dumps(value, allow_nan=False, ensure_ascii=False) if as_json else text)


def config_dict(config: Any, *, without: Sequence[str] = ("out", "overwrite", "json", "store")) -> dict[str, Any]:
    """The part of a configuration that can change a result, for the manifest; paths as the user wrote them."""
    return {
        key: value if isinstance(value, int | float | bool | None) else str(value)
        for key, value in dataclasses.asdict(config).items()
        if key not in without
    }
