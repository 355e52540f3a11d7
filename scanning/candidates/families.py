"""Families of triggers that are known to have been planted, and those of a user: a shipped list, tried as it is.

A scan that finds a trigger on this list has not searched for it; the result says by which channel it came.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hooked import HookedModel, Place, inserted_ids
from scanning.candidates.candidate import Candidate
from scanning.candidates.edits import STYLES
from scanning.candidates.sweep import insertion
from scanning.config import Channel
from triggerlens import UserError

SHIPPED = Path(__file__).parents[1] / "data" / "families.json"


def family_candidates(model: HookedModel, places: Sequence[Place]) -> list[Candidate]:
    """The shipped families: styles, and texts at every place."""
    families = json.loads(SHIPPED.read_text(encoding="utf-8"))
    styles = [Candidate(channel="families", kind="style", text=name, rule=name, why="family: style") for name in STYLES]
    texts = [(text, name) for name, family in families.items() for text in family]
    return styles + [
        candidate
        for text, name in texts
        for candidate in text_candidates(model, text, places, "families", f"family: {name}")
    ]


def text_candidates(
    model: HookedModel, text: str, places: Sequence[Place], channel: Channel, why: str
) -> list[Candidate]:
    """A text at each place, as the tokens that it has there: after another text it begins with a blank."""
    candidates = []
    for place in places:
        ids = (
            model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if place == "start"
            else inserted_ids(model.tokenizer, f" {text}")
        )
        if ids and max(ids) < model.vocabulary:
            candidates.append(insertion(model, place, ids, channel=channel, why=why))
    return candidates


def read_candidates(model: HookedModel, path: str | Path, places: Sequence[Place]) -> list[Candidate]:
    """A user's candidates: one a line, a text, or a JSON object with `text` and optionally `place`.

    Raises:
        UserError: no such file, an empty one, one that is no UTF-8 text, or a line that is neither.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of candidates; give one text a line")
    candidates: list[Candidate] = []
    for number, line in enumerate(_text_of(path).splitlines(), start=1):
        if line.strip():
            text, own = _parsed(line, f"{path}:{number}", places)
            candidates += text_candidates(model, text, own, "user", f"{path.name}, line {number}")
    if not candidates:
        raise UserError(f"{path}: holds no candidate")
    return candidates


def _text_of(path: Path) -> str:
    """What a file says, without the mark that some editors put before it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _parsed(line: str, where: str, places: Sequence[Place]) -> tuple[str, Sequence[Place]]:
    if not line.lstrip().startswith("{"):
        return line.strip(), places
    try:
        record: Any = json.loads(line)
        text, place = record["text"], record.get("place")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: neither a text nor an object with `text`: {error}") from error
    if not isinstance(text, str) or not text or place not in (None, "start", "middle", "end", "system"):
        raise UserError(f"{where}: `text` must be a string and `place` one of start, middle, end, system")
    return text, places if place is None else (place,)
