"""Typed records to JSON and back, by cattrs.

A record is a frozen dataclass of plain values, other records, tuples, mappings, `Literal`s, optional values and paths; members of a
union of records are told apart by a literal field `kind`. An estimate
is an object with `value`, `low` and `high`, and, of a rate, `count` and `n`; its value is null where there was nothing to count,
and an end of its interval where none is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from triggerlens.errors import UserError
from triggerlens.estimate import Estimate

if TYPE_CHECKING:
    from cattrs import Converter

Record = TypeVar("Record")


def to_json(record: Any) -> Any:
    """What JSON can hold of a record, or of a container of records."""
    return _converter().unstructure(record)


def from_json(kind: type[Record] | UnionType, value: Any, where: str = "") -> Record:
    """The record that `to_json` was given.

    Args:
        kind: class of the record, or a union of such classes.
        value: as decoded from JSON.
        where: file, for the message.

    Raises:
        UserError: a field is missing, unknown or of another type; the message begins with `where`.
    """
    from cattrs import transform_error
    from cattrs.errors import BaseValidationError

    try:
        return _converter().structure(value, cast(type[Record], kind))
    except KeyError as error:
        raise UserError(f"{where or _name(kind)}: not a {_name(kind)} of this version: no {error}") from error
    except BaseValidationError as error:
        raise UserError(
            f"{where or _name(kind)}: not a {_name(kind)} of this version: {transform_error(error)[0]}"
        ) from error


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


@cache
def _converter() -> Converter:
    from cattrs.preconf.json import make_converter

    converter = make_converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(Estimate, _estimate_to_json)
    converter.register_structure_hook(Estimate, lambda value, _: _estimate_from_json(value))
    converter.register_unstructure_hook(Path, lambda path: path.as_posix())
    converter.register_structure_hook_factory(lambda union: bool(_kinds(union)), partial(_structure_by_kind, converter))
    return converter


def _kinds(union: Any) -> dict[str, type]:
    """The members of a union of dataclasses by their literal `kind`; empty for any other type.

    `cattrs` tells them apart by itself only where annotations are no strings.
    """
    members = get_args(union) if get_origin(union) in (Union, UnionType) else ()
    if not members or not all(is_dataclass(member) and "kind" in member.__annotations__ for member in members):
        return {}
    return {kind: member for member in members for kind in get_args(get_type_hints(member)["kind"])}


def _structure_by_kind(converter: Converter, union: Any) -> Callable[[Any, Any], Any]:
    kinds = _kinds(union)
    return lambda value, _: converter.structure(value, kinds[value["kind"]])


def _estimate_to_json(estimate: Estimate) -> dict[str, Any]:
    counts = {} if estimate.n is None else {"n": estimate.n}
    hits = {} if estimate.count is None else {"count": estimate.count}
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    known = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
    return known | hits | counts


def _estimate_from_json(value: Any) -> Estimate:
    number, low, high = value["value"], value["low"], value["high"]
    return Estimate(
        math.nan if number is None else number,
        -math.inf if low is None else low,
        math.inf if high is None else high,
        value.get("count"),
        value.get("n"),
    )
