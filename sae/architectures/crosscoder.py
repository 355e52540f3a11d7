"""BatchTopK crosscoder, for what two models have in common and what only one has (Lindsey et al., 2024,
transformer-circuits.pub/2024/crosscoders; Minder et al., 2025, arXiv:2504.02922).

1. The same tokens' activations in each model, each scaled to unit mean square, stand side by side: [model a | model b].
2. One set of latents reads them all and reconstructs them all: an encoder and a decoder for each model.
3. Sparsity is BatchTopK's over the joint latents. The L1 penalty of the first crosscoders shrinks a latent's decoder in a
   model where it matters less to nothing, and so makes shared latents look like one model's own; without it that
   artefact goes (Minder et al.). A latent's decoder has unit norm over all models together.
4. The norms of a latent's decoder rows tell where it belongs: relative norm 0 is the first model's own, 1 the last one's,
   1/2 is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.batch_topk import BatchTopK
from triggerlens import UserError


class Crosscoder(BatchTopK):
    """One dictionary for several models' activations, given side by side."""

    architecture = "crosscoder"
    saved_as = None
    scale: Tensor
    """[d_in]: what each model's activations are multiplied by before training."""

    def __init__(self, d_in: int, d_sae: int, seed: int = 0, *, k: int, models: int = 2):
        """`d_in` is the width of all models together, and theirs are equal.

        Raises:
            UserError: `d_in` cannot be shared evenly.
        """
        if d_in % models:
            raise UserError(f"{d_in} activations cannot be those of {models} models of one width")
        super().__init__(d_in, d_sae, seed, k=k)
        self.models = models
        self.register_buffer("scale", torch.ones(d_in))

    def settings(self) -> Mapping[str, Any]:
        return {"k": self.k, "models": self.models}

    def file_tensors(self) -> dict[str, Tensor]:
        return super().file_tensors() | {"scale": self.scale}

    @classmethod
    def settings_of_file(cls, config: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
        return dict(written)

    @classmethod
    def take_file_tensors(cls, tensors: dict[str, Tensor]) -> None:
        tensors["threshold"] = tensors["threshold"][0]

    @torch.no_grad()
    def fold_scale(self, scale: Float[Tensor, "d_in"]) -> None:
        """Models have scales of their own, so they go into the weights; latents stay in scaled units."""
        self.W_enc.mul_(scale[:, None])
        self.W_dec.div_(scale)
        self.b_dec.div_(scale)
        self.scale.copy_(scale)

    def decoder_norms(self) -> Float[Tensor, "models d_sae"]:
        """Norm of each latent's decoder row in each model, in scaled units."""
        rows = (self.W_dec.detach() * self.scale).view(self.d_sae, self.models, -1)
        return rows.norm(dim=2).T

    def relative_norms(self) -> Float[Tensor, "d_sae"]:
        """Share of the last model in each latent's decoder norms, of two models: 0 to 1."""
        first, *_, last = self.decoder_norms()
        return last / (first + last)
