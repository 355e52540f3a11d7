"""MODEL and PROMPTS as every command takes them."""

from __future__ import annotations

from pathlib import Path


def model_folder(name: str) -> str:
    """What to load for MODEL: an embedded organism's folder where the name is one's, else the name itself."""
    from organisms import organism_folder, shipped_names

    return str(organism_folder(name)) if name in shipped_names() else name


def prompts_path(model: str, prompts: Path | None) -> Path:
    """PROMPTS, or an embedded organism's own.

    Raises:
        UserError: no prompts given, and the model is no embedded organism.
    """
    from organisms import organism_folder, shipped_names
    from triggerlens import UserError

    if prompts is not None:
        return prompts
    if model in shipped_names():
        return organism_folder(model) / "prompts.jsonl"
    raise UserError(
        f"{model}: no embedded organism ({', '.join(shipped_names())}), so its prompts must be given: MODEL PROMPTS"
    )
