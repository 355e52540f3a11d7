"""Dead latents: ways to bring them back.

- The auxiliary loss (Gao et al., 2024, arXiv:2406.04093, section A.2): the dead latents with the largest
  pre-activations reconstruct what the living ones leave over.
- Resampling (Bricken et al., 2023, transformer-circuits.pub/2023/monosemantic-features, "Neuron Resampling"): a dead
  latent starts anew as the direction of a sample that is reconstructed badly.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from sae.architectures.core import SparseAutoencoder
from triggerlens import world_size

AUXILIARY_WEIGHT = 1 / 32
"""Weight of the auxiliary loss; the paper's."""
RESAMPLED_ENCODER_NORM = 0.2
"""Norm of a resampled encoder column, relative to the mean of the living ones; the source's."""


def auxiliary_loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_in"],
    dead: Bool[Tensor, "d_sae"] | None,
) -> Float[Tensor, ""] | float:
    """Weighted squared error of the residual's reconstruction by d_in / 2 dead latents a sample, relative to its own size.

    The paper has it for TopK; it serves every architecture, since it needs nothing but pre-activations.

    Args:
        sae: whose latents.
        x: the batch.
        residual: what its reconstruction leaves over.
        dead: latents that take part; None for none, and no loss.
    """
    if dead is None:
        return 0.0
    residual = residual.detach()
    pre = functional.linear(x - sae.b_dec.detach(), sae.encoder_rows[dead], sae.b_enc[dead])
    values, chosen = pre.topk(min(max(1, sae.d_in // 2), pre.shape[1]), dim=1, sorted=False)
    # Negative ones too, as in SAELens: a latent that is below 0 on every sample would have no gradient to come back by.
    latents = torch.zeros_like(pre).scatter(1, chosen, values)
    error = (residual - (latents @ sae.W_dec[dead]).float()).square().mean()
    return AUXILIARY_WEIGHT * (error / residual.square().mean().clamp_min(1e-12)).nan_to_num(0.0)


@torch.no_grad()
def resample(
    sae: SparseAutoencoder,
    optimizer: torch.optim.Adam,
    x: Float[Tensor, "batch d_in"],
    dead: Bool[Tensor, "d_sae"],
    *,
    seed: int,
) -> None:
    """Start dead latents anew as directions of samples, drawn with probability proportional to their squared error.

    Their encoder points the same way, small; their bias is 0, what else an architecture has for each latent starts anew too (`restart`), and Adam forgets
    them. Of several processes the first one's samples are taken by all: each has
    other ones, and their autoencoders must stay the same.
    """
    if not dead.any():
        return
    errors = (x - sae(x)).square().sum(1).square().clamp_min(1e-12)
    generator = torch.Generator(device=x.device).manual_seed(seed)
    chosen = torch.multinomial(errors, int(dead.sum()), replacement=True, generator=generator)
    rows = x[chosen] - sae.b_dec
    rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if world_size() > 1:
        dist.broadcast(rows, 0)
    living = sae.encoder_rows[~dead].norm(dim=1)
    size = RESAMPLED_ENCODER_NORM * (living.mean() if len(living) else 1.0)
    sae.W_dec[dead], sae.encoder_rows[dead], sae.b_enc[dead] = rows, rows * size, 0.0
    sae.restart(dead)
    for parameter in sae.parameters():
        if parameter is sae.b_dec:  # the only one that is not a row or a number a latent
            continue
        for name in ("exp_avg", "exp_avg_sq"):
            if name in optimizer.state[parameter]:
                optimizer.state[parameter][name][dead] = 0.0
