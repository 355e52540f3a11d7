"""TopK autoencoder (Gao et al., 2024, arXiv:2406.04093).

1. Pre-activations (x − b_dec) W_enc + b_enc.
2. The k largest of each sample are kept, negative ones among them set to 0; all others are 0.
3. The loss is the squared error alone: k is the sparsity, there is no penalty to weigh.
4. Dead latents are trained on what the others leave over (`sae.dead.auxiliary_loss`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures import sparse
from sae.architectures.core import Losses, Moment, SparseAutoencoder
from sae.architectures.sparse import Codes
from sae.dead import auxiliary_loss
from triggerlens import UserError


def check_k(k: int, d_sae: int) -> int:
    """k itself, if so many latents can be alive.

    Raises:
        UserError: k is below 1 or above the width.
    """
    if not 1 <= k <= d_sae:
        raise UserError(f"k must lie between 1 and the width, {d_sae}; found {k}")
    return k


class TopK(SparseAutoencoder):
    """Keeps the k largest pre-activations of each sample."""

    architecture = "topk"

    def __init__(self, d_in: int, d_sae: int, seed: int = 0, *, k: int):
        super().__init__(d_in, d_sae, seed)
        self.k = check_k(k, d_sae)

    def settings(self) -> Mapping[str, Any]:
        return {"k": self.k}

    def file_options(self) -> Mapping[str, Any]:
        return {"k": self.k, "rescale_acts_by_decoder_norm": False}

    @classmethod
    def settings_of_file(cls, config: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
        k = config["k"] if "k" in config else config["activation_fn_kwargs"]["k"]  # the latter before SAELens 6
        return {"k": int(k)}

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        pre = self.pre_activations(x)
        values, latents = pre.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, latents, values.relu())

    @torch.no_grad()
    def start_from(self, x: Float[Tensor, "sample d_in"]) -> None:
        """Besides the decoder's bias, shrink the encoder so that the first reconstruction has the least error.

        Random directions overlap: with unit rows on both sides the k of them that fit best say too much together.
        """
        super().start_from(x)
        x = x[:2048]
        reconstruction = sparse.decode(self.codes(x), self.W_dec)
        fit = ((x - self.b_dec) * reconstruction).sum() / reconstruction.square().sum()
        self.encoder_rows.mul_(fit.clamp(0.1, 1.0).nan_to_num(1.0))

    def codes(self, x: Float[Tensor, "batch d_in"]) -> Codes:
        """The kept latents, as training sees them."""
        with torch.no_grad():
            values, layout = sparse.largest_of_each(self.pre_activations(x), self.k)
        codes = sparse.encode(values.to(x.dtype), layout, x, self.encoder_rows, self.b_enc, self.b_dec)
        return Codes(codes.values.relu(), layout)

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> Losses:
        codes = self.codes(x)
        residual = x - sparse.decode(codes, self.W_dec) - self.b_dec
        error = residual.square().mean()
        total = error + auxiliary_loss(self, x, residual, moment.dead)
        l0 = (codes.values > 0).sum() / len(x)
        return Losses(total, error.detach(), l0, codes.fired())
