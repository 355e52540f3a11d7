"""What a training run of autoencoders can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from triggerlens import UserError

Precision = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the same for all autoencoders that share a stream."""

    steps: int = 5000
    """Steps of the optimiser."""
    batch: int = 2048
    """Activations a step, over all processes."""
    learning_rate: float | None = None
    """Peak rate of Adam; where None 2e-4 · sqrt(16,384 / width), as Gao et al. (2024) found it to scale."""
    warmup: float = 0.05
    """Share of the steps in which the rate rises from 0; the sparsity penalty rises over five times as many."""
    decay: float = 0.2
    """Share of the steps, at the end, in which the rate falls to 0."""
    dead_after: int = 200_000
    """Activations for which a latent must not have fired to count as dead."""
    resample_every: int = 0
    """Steps between resamplings of dead latents, in the first half of the run; 0 for never."""
    precision: Precision = "bfloat16"
    """Of matrix products; weights and optimiser are float32."""
    seed: int = 0
    """Seed of the order of the activations."""
    checkpoint_every: int = 500
    """Steps between checkpoints, hence at most lost by a kill."""
    log_every: int = 50
    """Steps that each point of the training curves sums up."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "log_every", "dead_after"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', ' ')} must be at least 1, found {getattr(self, name)}")
        if self.precision not in get_args(Precision):
            raise UserError(f"unknown precision {self.precision!r}; choose {' or '.join(get_args(Precision))}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UserError(f"the learning rate must be positive, found {self.learning_rate}")
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
