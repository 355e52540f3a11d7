"""A world whose sparse dictionary is known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae import TensorSource

D_IN, FEATURES, ALIVE = 64, 128, 4


@dataclass
class World:
    """Activations that are sums of few features."""

    directions: Tensor
    """[FEATURES d_in], unit rows."""
    rows: Tensor
    """Activations, each of ALIVE features with sizes between 1 and 1.5, and a mean that is not 0."""
    source: TensorSource

    def recovered(self, W_dec: Tensor) -> float:
        """Share of features to which some decoder row has a cosine of at least 0.9."""
        cosines = torch.nn.functional.normalize(W_dec.detach(), dim=1) @ self.directions.T
        return float((cosines.amax(0) >= 0.9).float().mean())


def make_world(models: int = 1, rows: int = 50_000) -> World:
    """Every feature is as likely as any other."""
    generator = torch.Generator().manual_seed(2024)
    directions = torch.randn(FEATURES, D_IN * models, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    chosen = torch.rand(rows, FEATURES, generator=generator).topk(ALIVE, dim=1).indices
    sizes = 1 + 0.5 * torch.rand(rows, ALIVE, generator=generator)
    x = torch.zeros(rows, FEATURES).scatter(1, chosen, sizes) @ directions + 0.3
    source = TensorSource(x)
    source.widths = (D_IN,) * models
    return World(directions, x, source)
