"""JumpReLU autoencoder (Rajamanoharan et al., 2024, arXiv:2407.14435).

1. A latent is its pre-activation where that is above the latent's own threshold θ = exp(log_threshold), else 0.
2. The loss is the squared error and a penalty on L0 itself, weight · (L0 / k − 1)², which holds L0 at the target k
   (the paper's section on a fixed sparsity; it is also how Gemma Scope 2 is trained).
3. Neither a jump nor a count has a gradient, so θ gets one from the pre-activations that lie within a kernel around it (a
   rectangle); the encoder gets none from the jump.
4. The kernel is a share of θ wide. The paper's is fixed in units of the activations; a share keeps the autoencoder
   homogeneous, so that scale folds into the thresholds.
5. Training starts at the threshold that leaves k latents a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae.architectures.core import Losses, Moment, SparseAutoencoder
from sae.architectures.topk import check_k
from sae.dead import auxiliary_loss

BANDWIDTH = 0.2
"""Width of the kernel, as a share of the threshold."""
PENALTY = 0.1
"""Weight of the sparsity penalty, whose error is a mean over dimensions of variance about 1."""


class _Jump(torch.autograd.Function):
    """z where z > θ, and whether it is: [2 batch d_sae]."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, log_threshold: Tensor) -> tuple[Tensor, Tensor]:
        threshold = log_threshold.exp()
        ctx.save_for_backward(pre, threshold)
        open_ = (pre > threshold).to(pre.dtype)
        return pre * open_, open_

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        by_value, by_open = gradients
        pre, threshold = ctx.saved_tensors
        near = ((pre / threshold - 1).abs() < BANDWIDTH / 2).to(pre.dtype) / BANDWIDTH
        by_log_threshold = -(near * (by_value * threshold + by_open)).sum(0)
        return by_value * (pre > threshold), by_log_threshold


class JumpReLU(SparseAutoencoder):
    """Keeps what is above each latent's own threshold."""

    architecture = "jumprelu"

    def __init__(self, d_in: int, d_sae: int, seed: int = 0, *, k: int):
        super().__init__(d_in, d_sae, seed)
        self.k = check_k(k, d_sae)
        self.log_threshold = nn.Parameter(torch.zeros(d_sae))

    def settings(self) -> Mapping[str, Any]:
        return {"k": self.k}

    def file_tensors(self) -> dict[str, Tensor]:
        return super().file_tensors() | {"threshold": self.threshold}

    @classmethod
    def settings_of_file(cls, config: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
        return {"k": written.get("k", 1)}

    @classmethod
    def take_file_tensors(cls, tensors: dict[str, Tensor]) -> None:
        # A threshold below 0 does what 0 does, since the kept value is never negative.
        tensors["log_threshold"] = tensors["threshold"].clamp_min(0).log()

    @property
    def threshold(self) -> Float[Tensor, "d_sae"]:
        """The value above which each latent is kept."""
        return self.log_threshold.exp()

    @torch.no_grad()
    def start_from(self, x: Float[Tensor, "sample d_in"]) -> None:
        super().start_from(x)
        pre = self.pre_activations(x[:2048])
        kept = pre.flatten().topk(self.k * len(pre)).values.min()
        self.log_threshold.fill_(float(kept.clamp_min(1e-3).log()))

    @torch.no_grad()
    def restart(self, dead: Bool[Tensor, "d_sae"]) -> None:
        """At the mean log threshold of the living, if there are any: its own may be what no input reaches."""
        if not dead.all():
            self.log_threshold[dead] = self.log_threshold[~dead].mean()

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        pre = self.pre_activations(x)
        return pre.relu() * (pre > self.threshold)

    @torch.no_grad()
    def fold_scale(self, scale: Float[Tensor, "d_in"]) -> None:
        super().fold_scale(scale)
        self.log_threshold.sub_(scale[0].log())

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> Losses:
        latents, open_ = _Jump.apply(self.pre_activations(x).float(), self.log_threshold)
        residual = x - self.decode(latents)
        error = residual.square().mean()
        l0 = open_.sum() / len(x)
        penalty = PENALTY * moment.sparsity * (l0 / self.k - 1).square()
        total = error + penalty + auxiliary_loss(self, x, residual, moment.dead)
        return Losses(total, error.detach(), l0.detach(), (open_ > 0).any(0))
