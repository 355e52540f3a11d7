"""BatchTopK autoencoder (Bussmann et al., 2024, arXiv:2412.06410).

1. Pre-activations as TopK's.
2. In training the batch · k largest of the whole batch are kept, so that a hard sample may have more than k and an easy one fewer.
3. The smallest kept value is followed by a running mean. In inference it is the threshold of every latent, so that what a
   sample gets does not depend on its batch.
4. Dead latents as TopK's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures import sparse
from sae.architectures.core import Losses, Moment
from sae.architectures.sparse import Codes
from sae.architectures.topk import TopK
from sae.dead import auxiliary_loss

THRESHOLD_RATE = 0.01
"""Weight of the newest batch in the running mean of thresholds."""


class BatchTopK(TopK):
    """Keeps k pre-activations a sample on average; in inference all above a threshold."""

    architecture = "batch-topk"
    saved_as: ClassVar[str | None] = "jumprelu"
    threshold: Tensor
    """A scalar: the running mean of the smallest pre-activation that a training batch kept; what is above it is kept in inference."""

    def __init__(self, d_in: int, d_sae: int, seed: int = 0, *, k: int):
        super().__init__(d_in, d_sae, seed, k=k)
        self.register_buffer("threshold", torch.zeros(()))

    def file_tensors(self) -> dict[str, Tensor]:
        return super().file_tensors() | {"threshold": self.threshold.expand(self.d_sae)}

    def file_options(self) -> Mapping[str, Any]:
        return {}

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        pre = self.pre_activations(x)
        return pre.relu() * (pre > self.threshold)

    def offsets(self) -> list[Tensor]:
        return [*super().offsets(), self.threshold]

    @torch.no_grad()
    def start_from(self, x: Float[Tensor, "sample d_in"]) -> None:
        super().start_from(x)
        self.threshold.zero_()  # of the encoder before it was fitted

    def codes(self, x: Float[Tensor, "batch d_in"]) -> Codes:
        with torch.no_grad():
            values, layout = sparse.largest_of_all(self.pre_activations(x), self.k)
            if len(values):
                self._follow(values.min())
        return sparse.encode(values.to(x.dtype), layout, x, self.encoder_rows, self.b_enc, self.b_dec)

    def _follow(self, smallest: Float[Tensor, ""]) -> None:
        """Step 3; the first batch sets it."""
        rate = THRESHOLD_RATE if self.threshold > 0 else 1.0
        self.threshold.lerp_(smallest.to(self.threshold.dtype), rate)

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> Losses:
        codes = self.codes(x)
        residuals = self.residuals(x, codes)
        error = residuals[-1].square().mean()
        total = torch.stack([residual.square().mean() for residual in residuals]).mean()
        total = total + auxiliary_loss(self, x, residuals[-1], moment.dead)
        return Losses(total, error.detach(), (codes.values > 0).sum() / len(x), codes.fired())

    def residuals(self, x: Float[Tensor, "batch d_in"], codes: Codes) -> list[Float[Tensor, "batch d_in"]]:
        """What reconstructions leave over whose errors count alike; the whole dictionary's is the last."""
        return [x - sparse.decode(codes, self.W_dec) - self.b_dec]
