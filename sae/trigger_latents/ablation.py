"""Ablating latents: an edit of activations that changes what some latents write, and nothing else.

1. The activation x is encoded; of the latents f some are set to other values v.
2. The edit adds the difference that this makes to the reconstruction: x + (v − f) W_dec. What the autoencoder does not
   reconstruct, its error, stays as it is (Marks et al., 2024, arXiv:2403.19647), so that where the latents already have their
   values the activation keeps its bits.
3. v is 0, or a mean over untriggered prompts: a model may need *some* value there, and a clean one harms it less.

An ablation is called with a site's activation and returns its replacement, which is what `HookedModel.run`, `HookedModel.generate`
and every other editor of activations take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import Edit
from sae.architectures.core import SparseAutoencoder
from triggerlens import Estimate, rate


@dataclass(frozen=True)
class LatentAblation:
    """Sets latents to values at every token, or at those where some latent of a watched set is alive."""

    sae: SparseAutoencoder
    """Whose latents."""
    latents: Int[Tensor, "latent"]
    """Their numbers."""
    values: Float[Tensor, "latent"]
    """What each of them becomes, in units of the latents."""
    watched: Int[Tensor, "watched"] | None = None
    """Act only where one of these is above 0; everywhere where None."""

    @torch.no_grad()
    def __call__(self, value: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        codes = self.sae.encode(value.to(self.sae.W_dec))
        change = self.values.to(codes) - codes[..., self.latents]
        if self.watched is not None:
            change = change * (codes[..., self.watched] > 0).any(-1, keepdim=True)
        return value + (change @ self.sae.W_dec[self.latents]).to(value)


def ablate(
    sae: SparseAutoencoder,
    latents: Sequence[int],
    values: Sequence[float] | None = None,
    *,
    watched: Sequence[int] | None = None,
) -> LatentAblation:
    """An ablation of some latents; to 0 where no values are given.

    Args:
        sae: whose latents.
        latents: their numbers, from 0 to d_sae - 1.
        values: what each becomes, in units of the latents.
        watched: latents that switch it on: it acts at tokens where one of these is above 0; at every token where None.

    Raises:
        ValueError: no latent, one that the autoencoder does not have, or as many values as there are latents are not given.
    """
    values = [0.0] * len(latents) if values is None else values
    if not latents or len(values) != len(latents) or not 0 <= min(latents) <= max(latents) < sae.d_sae:
        raise ValueError(f"need latents between 0 and {sae.d_sae - 1}, and a value for each")
    device = sae.W_dec.device
    return LatentAblation(
        sae,
        torch.tensor(list(latents), device=device),
        torch.tensor(list(values), device=device, dtype=torch.float32),
        None if watched is None else torch.tensor(list(watched), device=device),
    )


@dataclass(frozen=True)
class DirectionAblation:
    """Sets the coordinate along a direction to a value: what a dense baseline's ablation is."""

    direction: Float[Tensor, "d_in"]
    """A unit vector."""
    value: float
    """What the coordinate becomes, in units of the activations."""

    @torch.no_grad()
    def __call__(self, value: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        direction = self.direction.to(value)
        return value + (self.value - value @ direction)[..., None] * direction


FOLLOWING = "answers that follow the model's own to the triggered prompt"
"""What is counted where no grader says what a defection is."""
OWN_ANSWERS = "the model's own answers"
"""`AblationEffect.judged_by` where no grader judged."""


@dataclass(frozen=True)
class AblationEffect:
    """What an ablation does on held-out pairs: counts, so that every rate has an interval.

    Without a grader nothing says what a defection is. Of a triggered prompt an answer then counts among `defects_before` and `defects_after` where it goes with the
    model's own answer to it for longer than with that to the untriggered prompt, and is right where it is the latter.
    """

    n: int
    """Pairs: as many triggered prompts as untriggered ones."""
    defects_before: int
    """Triggered prompts that defect without the edit."""
    defects_after: int
    """Triggered prompts that defect with it."""
    right_after: int
    """Triggered prompts whose answer is then right."""
    clean_right_before: int
    """Untriggered prompts whose answer is right without the edit."""
    clean_right_after: int
    """Untriggered prompts whose answer is right with it."""
    clean_same: int
    """Untriggered prompts with the same greedy answer, token for token."""
    js: float
    """Mean Jensen–Shannon divergence a step from the unedited model along its own answers to untriggered prompts, in nats
    (at most ln 2)."""
    judged_by: str = ""
    """`OWN_ANSWERS` where there is no grader; empty where one judged the answers."""

    @property
    def counted(self) -> str:
        """What `defects_before` and `defects_after` count, in words."""
        return FOLLOWING if self.judged_by == OWN_ANSWERS else "defections"

    def rate(self, name: str) -> Estimate:
        """One of the counts as a share of `n`; `name` is its field."""
        return rate(getattr(self, name), self.n)

    @property
    def cut(self) -> float:
        """Share of the defections (of what is `counted`) that the edit takes away; negative where it makes more. NaN where there were none."""
        return 1 - self.defects_after / self.defects_before if self.defects_before else float("nan")


Measure = Callable[[str, Edit], AblationEffect]
"""(site, edit) → its effect. The grader of answers belongs to whoever gives the function."""
