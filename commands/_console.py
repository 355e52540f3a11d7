"""The manner that all commands share: arguments from a config dataclass, one-line errors, exit codes.

Exit status: 0 done; 2 the user's input was unusable (one line on stderr, no traceback); 130 interrupted; 1 anything else.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from hooked.errors import UserError

Config = TypeVar("Config")


def console(config_class: type[Config], run: Callable[[Config], None], arguments: Sequence[str] | None = None) -> None:
    """Parse the command line into `config_class`, whose fields and docstrings are the options, and run."""
    description = (config_class.__doc__ or "").strip()
    config = tyro.cli(config_class, args=arguments, description=description)
    try:
        run(config)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on where it stopped", file=sys.stderr)
        sys.exit(130)


def emit(value: Any, *, as_json: bool, table: str) -> None:
    """Print the result on stdout: one JSON object, or a short table that a person can read."""
    print(json.dumps(value, allow_nan=False) if as_json else table)


def config_dict(config: Any, *, without: Sequence[str] = ("out", "overwrite", "json")) -> dict[str, Any]:
    """The part of a configuration that can change a result, for the manifest."""
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in without}
