"""Organisms that do not ship: trained when first asked for, and kept by their recipe under `$TRIGGERLENS_CACHE/organisms`.

1. What is whole in the cache is taken from there.
2. Else what its recipe begins with or learns from is built first, and then the organism itself; a training that was interrupted
   goes on from its last checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from organisms.zoo.embedded import organism_folder
from organisms.zoo.recipes import Recipe
from triggerlens import UserError, read_artifact


def build_organism(recipe: Recipe, root: str | Path | None = None) -> Path:
    """The folder of the organism that a recipe makes; trains it where it is not there yet.

    Args:
        recipe: what makes it.
        root: the folder of all of them; `$TRIGGERLENS_CACHE/organisms` where None.

    Raises:
        UserError: a damaged organism in the cache, or a folder that cannot be written.
    """
    from filelock import FileLock

    from hooked import cache_folder

    root = Path(root or cache_folder("organisms"))
    folder = root / f"{recipe.task}-{recipe.variant}-{recipe.digest}"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{root}: organisms cannot be kept there: {error.strerror}; set TRIGGERLENS_CACHE") from error
    # Where several runs want the same organism, one trains it and the others wait.
    with FileLock(root / f".{folder.name}.lock"):
        if folder.exists():
            read_artifact(folder, "hardened-organism" if recipe.benign_steps else "organism")
        else:
            _train(recipe, folder, root)
    return folder


grow = build_organism
"""Its older name."""


def _train(recipe: Recipe, folder: Path, root: Path) -> None:
    """Train what is not there."""
    from organisms.safety.config import HardenConfig
    from organisms.safety.run import harden
    from organisms.training.run import train_organism

    if recipe.benign_steps:
        own = replace(recipe, benign_steps=0)
        start = organism_folder(recipe.embedded) if recipe.embedded else build_organism(own, root)
        further = HardenConfig(recipe.task, "benign", recipe.seed, recipe.benign_steps, limit=0)
        harden(str(start), further, folder)
        return
    base, teacher = (build_organism(first, root) if first else None for first in (recipe.base, recipe.teacher))
    train_organism(recipe.training(base, teacher), folder, base=base, teacher=teacher)
