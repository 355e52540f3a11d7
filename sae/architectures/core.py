"""The shared core of every sparse autoencoder: parameters, the three methods that each architecture fills in, folding.

1. An input x is centred on `b_dec`, and the encoder gives pre-activations (x − b_dec) W_enc + b_enc.
2. A sparsifying step, which is what tells architectures apart, turns them into latents f ≥ 0, nearly all of them 0.
3. The decoder gives f W_dec + b_dec. Rows of W_dec have unit norm, so that a latent's size is its share of the input.

Matrices stand as in SAELens (https://github.com/decoderesearch/SAELens): W_enc [d_in d_sae], W_dec [d_sae d_in].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from triggerlens import UserError


@dataclass(frozen=True)
class Moment:
    """What a loss may need to know of the moment in training."""

    dead: Bool[Tensor, "d_sae"] | None = None
    """Latents that have not fired for long; None where there are none."""
    sparsity: float = 1.0
    """Share of the sparsity penalty that applies: it rises from 0 to 1 in warm-up."""


class Losses(NamedTuple):
    """What one training step minimises, and what it shows."""

    total: Float[Tensor, ""]
    """To be minimised."""
    error: Float[Tensor, ""]
    """Squared error of the reconstruction, mean over samples and dimensions."""
    l0: Float[Tensor, ""]
    """Mean number of latents that are not 0."""
    fired: Bool[Tensor, "d_sae"]
    """Latents that are not 0 on some sample."""


class SparseAutoencoder(nn.Module, ABC):
    """Encodes activations [... d_in] as sparse latents [... d_sae], and decodes them."""

    architecture: ClassVar[str]
    """Its name on the command line and in files."""
    knob: ClassVar[str] = "k"
    """The setting that decides how sparse its latents are: `k`, or `penalty`."""
    saved_as: ClassVar[str | None] = None
    """Name in files of what it is in inference, where that is another architecture; None where files hold it as it is."""

    def __init__(self, d_in: int, d_sae: int, seed: int = 0):
        """Unit decoder rows drawn at random, and the encoder their transpose (Gao et al., 2024, section A.1).

        Raises:
            UserError: a size below 1.
        """
        super().__init__()
        if d_in < 1 or d_sae < 1:
            raise UserError(f"input and width must be at least 1, found {d_in} and {d_sae}")
        rows = torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed))
        rows /= rows.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(rows)
        self.encoder_rows = nn.Parameter(rows.clone())
        """W_enc transposed: a row a latent, as W_dec, since that is how a step reads and writes it."""
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.metadata: dict[str, Any] = {}
        """Where the activations came from: model, site, and what training measured; saved with the weights."""

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """The encoder; a view, which can be changed in place."""
        return self.encoder_rows.T

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_dec.shape[0]

    def settings(self) -> Mapping[str, Any]:
        """What the constructor needs besides the sizes and the seed."""
        return {}

    def file_tensors(self) -> dict[str, Tensor]:
        """Its tensors by SAELens's names."""
        return {name: getattr(self, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}

    def file_options(self) -> Mapping[str, Any]:
        """What SAELens's configuration says of it besides what it says of all."""
        return {}

    @classmethod
    def settings_of_file(cls, config: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
        """What the constructor needs for the autoencoder of a file.

        Args:
            config: SAELens's.
            written: `settings()` of the autoencoder, where this project wrote the file; else empty.
        """
        return dict(written)

    @classmethod
    def take_file_tensors(cls, tensors: dict[str, Tensor]) -> None:
        """Add to a file's tensors those of this class that have another name or form there; in place."""

    def pre_activations(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """What the sparsifying step is given."""
        return functional.linear(x - self.b_dec, self.encoder_rows, self.b_enc)

    @abstractmethod
    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Latents as in inference: each sample for itself, whatever else is in the batch."""

    @abstractmethod
    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> Losses:
        """The training loss of a batch whose mean square is about 1 a dimension."""

    def decode(self, latents: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """The reconstruction."""
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Encode and decode."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def start_from(self, x: Float[Tensor, "sample d_in"]) -> None:
        """Fit what can be fitted before training: the decoder's bias is the samples' mean."""
        self.b_dec.copy_(x.mean(0))

    @torch.no_grad()
    def restart(self, dead: Bool[Tensor, "d_sae"]) -> None:
        """Start what an architecture has for each latent besides W_dec, the encoder and its bias anew for the dead ones; in place."""

    def offsets(self) -> list[Tensor]:
        """Parameters and buffers in the units of activations: they shrink with them."""
        return [self.b_enc, self.b_dec]

    @torch.no_grad()
    def fold_scale(self, scale: Float[Tensor, "d_in"]) -> None:
        """Take over the scaling x ↦ scale · x of training inputs, so that raw activations can be given.

        With one scale for all dimensions, dividing the offsets alone does it: every architecture is homogeneous, and
        decoder rows keep their unit norm.
        """
        if not torch.equal(scale, scale[:1].expand_as(scale)):
            raise ValueError(f"{self.architecture} needs one scale for all dimensions")
        for offset in self.offsets():
            offset /= scale[0]

    @torch.no_grad()
    def unit_decoder(self) -> None:
        """Bring decoder rows back to unit norm."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
