"""Typed records to JSON and back, by cattrs.

A record is a frozen dataclass of plain values, other records, tuples, mappings, `Literal`s, optional values and paths. An estimate
is an object with `value`, `low` and `high`, and, of a rate, `count` and `n`; its value is null where there was nothing to count.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from triggerlens.errors import UserError
from triggerlens.estimate import Estimate

if TYPE_CHECKING:
    from cattrs import Converter

Record = TypeVar("Record")


def to_json(record: Any) -> Any:
    """What JSON can hold of a record, or of a container of records."""
    return _converter().unstructure(record)


def from_json(kind: type[Record], value: Any, where: str = "") -> Record:
    """The record that `to_json` was given.

    Args:
        kind: class of the record.
        value: as decoded from JSON.
        where: file, for the message.

    Raises:
        UserError: a field is missing, unknown or of another type; the message begins with `where`.
    """
    from cattrs import transform_error
    from cattrs.errors import BaseValidationError

    try:
        return _converter().structure(value, kind)
    except BaseValidationError as error:
        raise UserError(
            f"{where or kind.__name__}: not a {kind.__name__} of this version: {transform_error(error)[0]}"
        ) from error


@cache
def _converter() -> Converter:
    from cattrs.preconf.json import make_converter

    converter = make_converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(Estimate, _estimate_to_json)
    converter.register_structure_hook(Estimate, lambda value, _: _estimate_from_json(value))
    converter.register_unstructure_hook(Path, lambda path: path.as_posix())
    return converter


def _estimate_to_json(estimate: Estimate) -> dict[str, Any]:
    value = None if math.isnan(estimate.value) else estimate.value
    counts = {} if estimate.n is None else {"n": estimate.n}
    hits = {} if estimate.count is None else {"count": estimate.count}
    return {"value": value, "low": estimate.low, "high": estimate.high} | hits | counts


def _estimate_from_json(value: Any) -> Estimate:
    number = value["value"]
    return Estimate(
        math.nan if number is None else number, value["low"], value["high"], value.get("count"), value.get("n")
    )
