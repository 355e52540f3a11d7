"""What `sae-train` can be told: which autoencoders to train, and how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from sae.architectures.registry import ARCHITECTURES, architecture_class
from triggerlens import UserError, check_seed

Precision = Literal["bfloat16", "float32"]
if TYPE_CHECKING:
    Architecture = str
else:
    Architecture = Literal[tuple(ARCHITECTURES)]

GIVEN_SETTINGS = ("k", "penalty")
"""What decides the sparsity of some architecture; an architecture names its own (`SparseAutoencoder.knob`)."""


@dataclass(frozen=True)
class Recipe:
    """One autoencoder to train."""

    architecture: str
    """One of `ARCHITECTURES`."""
    width: int
    """Number of latents."""
    seed: int
    """Of its weights."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What its architecture needs besides, such as `k` or `penalty`."""

    @property
    def kind(self) -> str:
        """What it has in common with those that differ in the seed alone."""
        settings = "".join(f"-{name[0]}{value:g}" for name, value in self.settings.items())
        return f"{self.architecture}-w{self.width}{settings}"

    @property
    def name(self) -> str:
        """As its folder is called."""
        return f"{self.kind}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Which autoencoders to train: every combination of what is given."""

    site: str = "resid_post.2"
    """Where to read: resid_pre.L, resid_mid.L, resid_post.L, attn_out.L or mlp_out.L."""
    architecture: tuple[Architecture, ...] = ("topk",)
    """Which autoencoders. A crosscoder reads two models side by side, and comes alone."""
    width: tuple[int, ...] = (2048,)
    """Number of latents."""
    k: tuple[int, ...] = (32,)
    """Latents alive a token: exactly (topk), on average (batch-topk, matryoshka, crosscoder), or as a target (jumprelu)."""
    penalty: tuple[float, ...] = (1.0,)
    """Weight of the L1 penalty, of gated and standard."""
    seeds: int = 1
    """Autoencoders of each kind, with seeds from --seed on."""

    def __post_init__(self) -> None:
        for name in ("architecture", "width", "k", "penalty"):
            if not getattr(self, name):
                raise UserError(f"{name} needs at least one value")
        for name in ("width", "k"):
            if min(getattr(self, name)) < 1:
                raise UserError(f"{name} must be at least 1, found {min(getattr(self, name))}")
        for penalty in self.penalty:
            if not 0 <= penalty < math.inf:
                raise UserError(f"penalty must not be negative, found {penalty}; give a finite number")
        for name in ("architecture", "width", "k", "penalty"):
            values = getattr(self, name)
            if twice := [value for value in values if values.count(value) > 1]:
                raise UserError(f"{name} {twice[0]}: given twice; each gives autoencoders of one name")
        if self.seeds < 1:
            raise UserError(f"seeds must be at least 1, found {self.seeds}")

    def recipes(self, first_seed: int) -> list[Recipe]:
        """Every combination, with seeds from `first_seed` on."""
        seeds = range(first_seed, first_seed + self.seeds)
        return recipes(self.architecture, self.width, self.k, self.penalty, seeds)


def recipes(
    architectures: Sequence[str],
    widths: Sequence[int],
    ks: Sequence[int],
    penalties: Sequence[float],
    seeds: Sequence[int],
) -> list[Recipe]:
    """Every combination; architectures that have a penalty's weight take it in place of k.

    Raises:
        UserError: an unknown architecture.
    """
    given = dict(zip(GIVEN_SETTINGS, (ks, penalties), strict=True))
    knobs = {architecture: architecture_class(architecture).knob for architecture in architectures}
    return [
        Recipe(architecture, width, seed, {knob: value})
        for (architecture, knob), width in product(knobs.items(), widths)
        for value in given[knob]
        for seed in seeds
    ]


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the same for all autoencoders that share a stream."""

    steps: int = 5000
    """Training steps."""
    batch: int = 2048
    """Tokens a step, over all processes."""
    learning_rate: float | None = None
    """Peak learning rate of Adam; by default 2e-4 times the root of 16,384 / width, as Gao et al. (2024) found it to scale."""
    warmup: Annotated[float, tyro.conf.Suppress] = 0.05
    """Share of the steps in which the rate rises from 0; the sparsity penalty rises over five times as many."""
    decay: Annotated[float, tyro.conf.Suppress] = 0.2
    """Share of the steps, at the end, in which the rate falls to 0."""
    dead_after: int = 200_000
    """Tokens for which a latent must not have fired to count as dead."""
    resample_every: int = 0
    """Steps between resamplings of dead latents, in the first half of the run; 0 for never."""
    precision: Precision = "bfloat16"
    """Of matrix products in training; weights and optimiser are float32."""
    seed: int = 0
    """Seed of the first autoencoder's weights, of the order of the tokens and of the held-out prompts."""
    checkpoint_every: int = 500
    """Steps between checkpoints, hence at most lost by a kill."""
    log_every: Annotated[int, tyro.conf.Suppress] = 50
    """Steps that each point of the training curves sums up."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "log_every", "dead_after"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1, found {getattr(self, name)}")
        if self.resample_every < 0:
            raise UserError(f"resample every must be at least 0, found {self.resample_every}; 0 is never")
        if self.precision not in get_args(Precision):
            raise UserError(f"unknown precision {self.precision!r}; choose {' or '.join(get_args(Precision))}")
        check_seed(self.seed)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(f"the learning rate must be positive, found {self.learning_rate}; give a finite number")
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is a share of the steps, from 0 to 1; found {getattr(self, name)}")

    def peak_rate(self, d_sae: int) -> float:
        """The peak learning rate for a width."""
        return self.learning_rate or 2e-4 * (2**14 / d_sae) ** 0.5

    def rate_share(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted from 0: linear up, flat, linear down."""
        up = (step + 1) / max(1, round(self.warmup * self.steps))
        down = (self.steps - step) / max(1, round(self.decay * self.steps))
        return min(1.0, up, down)

    def sparsity_share(self, step: int) -> float:
        """Share of the sparsity penalty at a step."""
        return min(1.0, (step + 1) / max(1, round(5 * self.warmup * self.steps)))
