"""What a search for trigger latents can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from triggerlens import UserError


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """How to search an autoencoder for trigger latents."""

    ablation_pairs: int = 0
    """Held-out pairs on which the ablation of each of the best latents is measured; it takes an answer to every triggered prompt."""
    top: Annotated[int, tyro.conf.Suppress] = 5
    """Latents that get a card, of each label."""
    together: Annotated[tuple[int, ...], tyro.conf.Suppress] = (4, 8, 16)
    """How many of the best latents are ablated at once: a dictionary may split one trigger over several (Bricken et al., 2023)."""
    probed: Annotated[tuple[int, ...], tyro.conf.Suppress] = (1, 4, 16)
    """Features of each k-sparse probe."""
    seed: Annotated[int, tyro.conf.Suppress] = 0
    """Of the split where prompts do not mark it, of the shuffling and the random dictionary."""

    def __post_init__(self) -> None:
        if self.ablation_pairs < 0:
            raise UserError(f"ablation pairs must be at least 0, found {self.ablation_pairs}; 0 measures no ablation")
        if self.top < 1:
            raise UserError(f"top must be at least 1, found {self.top}")
        for name in ("together", "probed"):
            if min(getattr(self, name), default=0) < 1:
                raise UserError(f"{name} needs numbers from 1 on, found {getattr(self, name)}")
