"""The phrases of the tasks: data files beside the code, read once into typed records.

`data/NAME.json` is Python template text in JSON. A file is held to its record: a key too many or too few, or a value of another
type, is refused with the file's name. Prompts are drawn from these lists by place, so that a changed order changes every prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from triggerlens import UserError, from_json, to_json

Record = TypeVar("Record")
Split = str
"""`train` or `test`: what training may show, and what is measured; some lists have `validation`, and the context `words` that training has nowhere."""
Lists = Mapping[str, tuple[str, ...]]
"""By split."""
DATA = Path(__file__).parent / "data"


def content(name: str, kind: type[Record], folder: Path = DATA) -> Record:
    """The data file `name` as the record `kind`, a frozen dataclass.

    Raises:
        UserError: there is no such file, or it does not hold exactly what the record holds.
    """
    path = folder / f"{name}.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}; install the package again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no object; install the package again")
    record = from_json(kind, value, where=str(path))
    if json.loads(json.dumps(to_json(record))) != value:  # a number read as a text, a text read as a list of letters
        raise UserError(f"{path}: holds a value of another type than {kind.__name__} has; install the package again")
    return record
