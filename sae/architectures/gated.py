"""Gated autoencoder (Rajamanoharan et al., 2024, arXiv:2404.16014).

1. One product with W_enc serves twice: the gate (x − b_dec) W_enc + b_enc says which latents are open, and the magnitude
   (x − b_dec) W_enc · exp(r_mag) + b_mag says how large an open one is.
2. The loss is the squared error, an L1 penalty on the gate's positive part, and the squared error of an auxiliary
   reconstruction from the gate's positive part with the decoder frozen, which is what trains the gate.
3. So the penalty that makes latents sparse does not shrink the magnitudes of those that are open.
4. There is no k: the penalty's weight decides L0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae.architectures.core import Losses, Moment, SparseAutoencoder
from sae.dead import auxiliary_loss


class Gated(SparseAutoencoder):
    """Decides apart from each other which latents are open and how large they are."""

    architecture = "gated"
    knob = "penalty"

    def __init__(self, d_in: int, d_sae: int, seed: int = 0, *, penalty: float):
        """`penalty` is the weight of the L1 norm against the summed squared error, of inputs of mean square 1."""
        super().__init__(d_in, d_sae, seed)
        self.penalty = penalty
        self.b_mag, self.r_mag = nn.Parameter(torch.zeros(d_sae)), nn.Parameter(torch.zeros(d_sae))

    def settings(self) -> Mapping[str, Any]:
        return {"penalty": self.penalty}

    def file_tensors(self) -> dict[str, Tensor]:
        tensors = super().file_tensors()
        return tensors | {"b_gate": tensors.pop("b_enc"), "b_mag": self.b_mag, "r_mag": self.r_mag}

    @classmethod
    def settings_of_file(cls, config: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
        return {"penalty": written.get("penalty", 0.0)}

    @classmethod
    def take_file_tensors(cls, tensors: dict[str, Tensor]) -> None:
        tensors["b_enc"] = tensors.pop("b_gate")

    @torch.no_grad()
    def restart(self, dead: Bool[Tensor, "d_sae"]) -> None:
        """Open and as large as the gate says, as before training: a magnitude far below 0 would keep it silent whatever its direction."""
        self.b_mag[dead] = self.r_mag[dead] = 0.0

    def offsets(self) -> list[Tensor]:
        return [*super().offsets(), self.b_mag]

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        return self._latents(self.pre_activations(x))

    def _latents(self, gate: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_sae"]:
        magnitude = (gate - self.b_enc) * self.r_mag.exp() + self.b_mag
        return magnitude.relu() * (gate > 0)

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> Losses:
        gate = self.pre_activations(x).float()
        latents = self._latents(gate)
        residual = x - self.decode(latents)
        error = residual.square().mean()
        opened = gate.relu()
        by_gate = (x - opened @ self.W_dec.detach() - self.b_dec.detach()).square().mean()
        sparsity = self.penalty * moment.sparsity * opened.sum(1).mean() / self.d_in
        alive = latents.detach() > 0
        total = error + by_gate + sparsity + auxiliary_loss(self, x, residual, moment.dead)
        return Losses(total, error.detach(), alive.sum() / len(x), alive.any(0))
