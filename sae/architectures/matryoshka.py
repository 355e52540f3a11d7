"""Matryoshka BatchTopK autoencoder (Bussmann et al., 2025, arXiv:2503.17547).

1. Latents as BatchTopK's, in nested dictionaries: the first 1/16, 1/8, 1/4 and 1/2 of the latents, and all.
2. Each dictionary reconstructs the input with its own latents alone, and the loss is the mean of their errors. So the first
   latents learn general features that the later ones cannot absorb.
3. Threshold and dead latents as BatchTopK's; the auxiliary loss is of the whole dictionary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures import sparse
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.sparse import Codes

NESTED = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Sizes of the dictionaries, as shares of the width."""


class Matryoshka(BatchTopK):
    """Nested BatchTopK dictionaries."""

    architecture = "matryoshka"

    def residuals(self, x: Float[Tensor, "batch d_in"], codes: Codes) -> list[Float[Tensor, "batch d_in"]]:
        sizes = sorted({max(1, round(share * self.d_sae)) for share in NESTED})
        groups = codes.in_groups(torch.tensor(sizes, device=x.device))
        parts = sparse.decode(groups, self.W_dec).view(len(x), len(sizes), self.d_in)
        return list((x[:, None] - self.b_dec - parts.cumsum(1)).unbind(1))
