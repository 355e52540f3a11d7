"""The standard autoencoder (Bricken et al., 2023, transformer-circuits.pub/2023/monosemantic-features).

1. Latents are the positive parts of the pre-activations.
2. The loss is the squared error and an L1 penalty on the latents, whose weight decides L0.

Here it is the baseline of the others, and what most of the earliest published autoencoders are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sae.architectures.core import Losses, Moment, SparseAutoencoder
from sae.dead import auxiliary_loss


class ReLU(SparseAutoencoder):
    """Keeps what is positive."""

    architecture = "standard"
    knob = "penalty"

    def __init__(self, d_in: int, d_sae: int, seed: int = 0, *, penalty: float):
        """`penalty` is the weight of the L1 norm against the summed squared error, of inputs of mean square 1."""
        super().__init__(d_in, d_sae, seed)
        self.penalty = penalty

    def settings(self) -> Mapping[str, Any]:
        return {"penalty": self.penalty}

    @classmethod
    def settings_of_file(cls, config: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
        return {"penalty": written.get("penalty", 0.0)}

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        return self.pre_activations(x).relu()

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> Losses:
        latents = self.encode(x).float()
        residual = x - self.decode(latents)
        error = residual.square().mean()
        sparsity = self.penalty * moment.sparsity * latents.sum(1).mean() / self.d_in
        alive = latents.detach() > 0
        total = error + sparsity + auxiliary_loss(self, x, residual, moment.dead)
        return Losses(total, error.detach(), alive.sum() / len(x), alive.any(0))
