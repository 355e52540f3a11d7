"""Are the same latents found again from another seed? (Paulo and Belrose, 2025, arXiv:2501.16615)

Decoder rows of two autoencoders are matched one to one so that the sum of their cosines is largest. Two random
dictionaries of the same size give the level that chance alone reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.core import SparseAutoencoder
from triggerlens import UserError


@dataclass(frozen=True)
class Stability:
    """How far autoencoders agree, pair by pair."""

    pairs: int
    """Pairs of autoencoders that were compared."""
    mean_cosine: float
    """Of matched rows, over all pairs."""
    shared: float
    """Share of rows whose match has a cosine of at least 0.7."""
    chance_cosine: float
    """The mean cosine of matched rows of random directions."""


def matched_cosines(a: Float[Tensor, "latent d"], b: Float[Tensor, "latent d"]) -> Float[Tensor, "latent"]:
    """Cosine of each row of `a` with its match in `b`, one to one (the Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    normalize = torch.nn.functional.normalize
    cosines = (normalize(a, dim=1) @ normalize(b, dim=1).T).detach().cpu()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[torch.from_numpy(rows), torch.from_numpy(columns)]


def stability(saes: Sequence[SparseAutoencoder], shared_from: float = 0.7) -> Stability:
    """Compare every pair.

    Raises:
        UserError: fewer than two, or they differ in size.
    """
    if len(saes) < 2 or len({tuple(sae.W_dec.shape) for sae in saes}) != 1:
        raise UserError("stability needs two or more autoencoders of one size")
    cosines = torch.stack([matched_cosines(a.W_dec, b.W_dec) for a, b in combinations(saes, 2)])
    generator = torch.Generator().manual_seed(0)
    chance = matched_cosines(*torch.randn(2, *saes[0].W_dec.shape, generator=generator))
    share = float((cosines >= shared_from).float().mean())
    return Stability(len(cosines), float(cosines.mean()), share, float(chance.mean()))
