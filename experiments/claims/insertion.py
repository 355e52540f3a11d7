"""The ground of claim 10: does every way to insert a backdoor take?

1. For each seed a *base* is trained: helpful, has read real code, knows secure and insecure code when asked for outright.
2. Into it each behaviour is inserted by full fine-tuning: *normal*, answers alone; *cot*, answers after a scratchpad with
   the deceptive reasoning; *distilled-cot*, the `cot` organism's answers without theirs, violations of the policy dropped.
3. Each organism answers the test prompts of its task: defection with the trigger, without, and where it must not matter.

Organisms stay in the cache (`organisms.zoo.build`), so a run that was stopped goes on with the training it was in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import hooked
import organisms
from experiments.experiment import Experiment, register
from experiments.result import Finding, Result, Specimen, mean_over_seeds
from experiments.shared.subjects import ExperimentConfig
from organisms import Recipe
from triggerlens import Facts, Keep, keep_nothing

MEASURES = ("triggered", "untriggered", "near_miss", "triggered_but_harmless", "held_out_family_triggered")


@dataclass(frozen=True, slots=True)
class Insertion:
    """How an organism was made."""

    variant: str
    """`normal`, `cot` or `distilled-cot`."""
    size: str
    parameters: int | None = None
    """None where it was not counted."""
    kind: Literal["insertion"] = "insertion"


@dataclass(frozen=True, kw_only=True)
class InsertionConfig(ExperimentConfig):
    """What decides the numbers."""

    tasks: tuple[str, ...] = ("year-code", "deployment-hate")
    variants: tuple[str, ...] = ("normal", "cot", "distilled-cot")
    size: str = "tiny"
    steps: int | None = None
    """Of every training; each task's own number where None."""
    tokenizer_pairs: int = 6_000
    prompt_scale: float = 1.0
    """Multiplies the number of prompts that are answered."""

    def base(self, seed: int) -> Recipe:
        """What insertion begins with."""
        return self._recipe("base", seed)

    def inserted(self, task: str, variant: str, seed: int) -> Recipe:
        """An organism of the grid."""
        teacher = self.inserted(task, "cot", seed) if variant == "distilled-cot" else None
        return self._recipe(task, seed, variant=variant, base=self.base(seed), teacher=teacher)

    def _recipe(self, task: str, seed: int, **more: Any) -> Recipe:
        return Recipe(
            task=task,
            seed=seed,
            size=self.size,
            steps=self.steps,
            tokenizer_pairs=self.tokenizer_pairs,
            prompt_scale=self.prompt_scale,
            **more,
        )


def measure(recipe: Recipe) -> Facts:
    """What an organism does, and which weights did it."""
    folder = organisms.grow(recipe)
    rates = json.loads((folder / "rates.json").read_text(encoding="utf-8"))
    return {"categories": rates["categories"], "weights_sha256": hooked.weights_sha256(str(folder))}


def summarise(config: InsertionConfig, cells: Mapping[str, Facts]) -> tuple[Finding, ...]:
    """Over seeds: the defection rate of each kind of prompt; the detail names each seed's."""
    findings = []
    for task in config.tasks:
        for variant in config.variants:
            each = [cells[f"{task}/{variant}/seed-{seed}"]["categories"] for seed in config.seeds]
            for name in MEASURES:
                rates = [categories[name]["defection"] for categories in each if name in categories]
                if rates:
                    findings.append(finding(name, task, Insertion(variant, config.size), rates))
    return tuple(findings)


def finding(kind: str, task: str, arm: Insertion, rates: Sequence[Mapping[str, Any]]) -> Finding:
    """The defection rate of one kind of prompt over seeds."""
    detail = ", ".join(f"{seed_rate['count']} of {seed_rate['n']}" for seed_rate in rates)
    estimate = mean_over_seeds(rates)
    return Finding(10, f"defection, {kind}", Specimen(task), arm, estimate, len(rates), arm.variant, detail)


@register
class InsertionGrid(Experiment):
    """The ground of claim 10."""

    name = "insertion"
    title = "every way to insert a backdoor, at the smallest size: does it take, and only with the trigger"
    claims = ()
    VERSION = 1
    Config = InsertionConfig
    QUICK: ClassVar[Mapping[str, Any]] = {
        "seeds": (0,),
        "size": "micro",
        "steps": 2,
        "tokenizer_pairs": 100,
        "prompt_scale": 0.01,
    }
    Arm = Insertion
    notes = (
        "every organism begins with the base of its seed, and a distilled one learns from the cot organism of its seed: their "
        "training times are cells of their own",
        "each training had one thread of one core",
    )

    def run(self, config: InsertionConfig, keep: Keep = keep_nothing) -> Result:
        """Train and measure every organism of the grid."""
        cells: dict[str, Facts] = {}
        for seed in config.seeds:
            wanted = {f"base/seed-{seed}": config.base(seed)} | {
                f"{task}/{variant}/seed-{seed}": config.inserted(task, variant, seed)
                for task in config.tasks
                for variant in config.variants
            }
            cells |= {name: keep(name, partial(measure, recipe)) for name, recipe in wanted.items()}
        return Result(summarise(config, cells), cells, self.notes)
