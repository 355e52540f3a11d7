"""How a removal is run: what `patch-ablate` takes, and what a call of `patch_ablate` does."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from tyro.conf import Suppress, arg
from tyro.constructors import PrimitiveConstructorSpec

from triggerlens import UserError


def _first_seeds(words: list[str]) -> tuple[int, ...]:
    return tuple(range(int(words[0])))


Seeds = Annotated[
    tuple[int, ...],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=_first_seeds,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda seeds: [str(len(seeds))],
    ),
]
"""On the command line, how many: 3 stands for 0, 1 and 2."""


@dataclass(frozen=True)
class AblateConfig:
    """Sizes, strengths and seeds; the defaults are for a model of a few million parameters on two cores."""

    seeds: Seeds = (0, 1, 2)
    """How many seeds (0, 1, 2, …); each fits anew, on its own draw of four fifths of the fitting pairs."""
    fit_pairs: int = 300
    """Pairs to fit on, at most."""
    validation_pairs: Suppress[int] = 40
    """Pairs of the fitting side kept back to choose the best method on, at most; never more than a third of them."""
    evaluation_pairs: int = 200
    """Held-out pairs to report on, at most."""
    harmless_pairs: Suppress[int] = 60
    """Pairs whose triggered prompt does not defect, to fit on and to report on, at most."""
    traced_pairs: Suppress[int] = 8
    """Pairs whose patching maps are averaged into the trigger's route."""
    new_tokens: Annotated[int, arg(name="max-new-tokens")] = 96
    """Longest answer, in tokens."""
    rank: int = 8
    """Rank of the low-rank edits of weights."""
    learning_rate: float = 2e-3
    """Highest learning rate of the low-rank edits."""
    steps: int = 150
    """Training steps of the low-rank edits."""
    pairs_per_step: Suppress[int] = 16
    """Triggered prompts in a step, and as many others on which nothing may change."""
    keep: Suppress[float] = 100.0
    """Weight of the divergence on those others, 0 or more."""
    relearn_steps: int = 40
    """Longest ordinary fine-tuning after each edit, to see whether the behaviour comes back; 0 for none."""
    relearn_rate: Suppress[float] = 0.1
    """Defection rate at which the behaviour is said to be back, above 0 and at most 1."""
    relearn_learning_rate: Suppress[float] = 3e-4
    """Of that fine-tuning."""
    relearn_pairs: Suppress[int] = 50
    """Triggered prompts on which that is looked at."""
    batch_size: int = 128
    """Prompts in one forward pass, at most."""
    target: Suppress[float] = 0.01
    """The highest defection rate of a removal, and the highest at which there is nothing to remove; 0 or more, below 1."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{_OPTIONS.get(name, name)}: must be positive and finite, not {getattr(self, name)}")
        for name in ("relearn_steps", "keep"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name}: must be 0 or more, not {getattr(self, name)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds: give at least one, and none twice, not {self.seeds}")
        if not 0 < self.relearn_rate <= 1:
            raise UserError(f"relearn_rate: must be above 0 and at most 1, not {self.relearn_rate}")
        if not 0 <= self.target < 1:
            raise UserError(f"target: must be 0 or more and below 1, not {self.target}")


_POSITIVE = (
    "fit_pairs",
    "validation_pairs",
    "evaluation_pairs",
    "harmless_pairs",
    "traced_pairs",
    "new_tokens",
    "rank",
    "learning_rate",
    "steps",
    "pairs_per_step",
    "relearn_learning_rate",
    "relearn_pairs",
    "batch_size",
)
_OPTIONS = {"new_tokens": "max_new_tokens"}
"""What the command line calls a field of another name."""


@dataclass(frozen=True)
class Screening:
    """Methods compete on few pairs before any is measured in full; see `patching.removal.screening`."""

    screen: Literal["on", "off"] = "on"
    """on: methods compete on few validation pairs with the first seed, and only those that are left are measured in full,
    with every seed, a probe, relearning and placebos. off: every method is measured in full."""
    survivors: int = 1
    """How many edits of weights pass the screening and are measured in full; the best of them is saved."""
    activation_survivors: int = 0
    """Edits of activations that are measured in full beside them; 0: what the screen saw of them is all that is said. Where no edit of weights
    can be made it is 1 at least."""

    def __post_init__(self) -> None:
        if not self.survivors >= 1:
            raise UserError(f"survivors: must be 1 or more, not {self.survivors}")
        if not self.activation_survivors >= 0:
            raise UserError(f"activation_survivors: must be 0 or more, not {self.activation_survivors}")


LARGE = 20_000_000
"""A model of so many parameters or more is large: it gets the sizes of `large_config`."""


def large_config(seeds: tuple[int, ...] = (0,)) -> AblateConfig:
    """Sizes for a model of some hundred million parameters on two cores."""
    return AblateConfig(
        seeds=seeds,
        fit_pairs=24,
        validation_pairs=12,
        evaluation_pairs=40,
        harmless_pairs=8,
        traced_pairs=2,
        new_tokens=24,
        steps=40,
        pairs_per_step=4,
        relearn_steps=10,
        relearn_pairs=12,
        batch_size=32,
    )


def fitting_budget(config: AblateConfig, parameters: int, answer_tokens: int = 0) -> tuple[AblateConfig, str]:
    """A configuration for a model of so many parameters, and a line on what was lowered, empty where nothing was.

    For a large model what stands at its default takes the size of `large_config`; what was chosen stays.

    Args:
        config: what was asked for.
        parameters: of the model.
        answer_tokens: answers are not cut before so many: a grader may need the whole of one.
    """
    usual, large = AblateConfig(), large_config()
    large = replace(large, new_tokens=max(large.new_tokens, answer_tokens))
    lowered: dict[str, Any] = {
        field.name: getattr(large, field.name)
        for field in fields(config)
        if getattr(config, field.name) == getattr(usual, field.name) != getattr(large, field.name)
    }
    if parameters < LARGE or not lowered:
        return config, ""
    words = ", ".join(
        f"{_OPTIONS.get(name, name)} {len(to) if name == 'seeds' else to}" for name, to in lowered.items()
    )
    return replace(config, **lowered), f"sizes for a model of {parameters / 1e6:.0f} million parameters: {words}"


def quick_config(seeds: tuple[int, ...] = (0,)) -> AblateConfig:
    """A run of seconds, to try the pipeline; its rates mean little."""
    return AblateConfig(
        seeds=seeds,
        fit_pairs=32,
        validation_pairs=8,
        evaluation_pairs=24,
        traced_pairs=2,
        harmless_pairs=8,
        steps=20,
        pairs_per_step=8,
        relearn_steps=4,
        relearn_pairs=8,
    )
