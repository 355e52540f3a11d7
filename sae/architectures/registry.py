"""Every architecture that can be trained. To add one: its file in this folder, and its line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from triggerlens import UserError

if TYPE_CHECKING:
    from sae.architectures.core import SparseAutoencoder

ARCHITECTURES: dict[str, str] = {
    "topk": "sae.architectures.topk:TopK",
    "batch-topk": "sae.architectures.batch_topk:BatchTopK",
    "jumprelu": "sae.architectures.jumprelu:JumpReLU",
    "gated": "sae.architectures.gated:Gated",
    "matryoshka": "sae.architectures.matryoshka:Matryoshka",
    "crosscoder": "sae.architectures.crosscoder:Crosscoder",
    "standard": "sae.architectures.relu:ReLU",
}
"""Module and class of each, by the name that the command line and files have for it; torch is imported with the class."""


def architecture_class(name: str) -> type[SparseAutoencoder]:
    """The class of an architecture.

    Raises:
        UserError: an unknown architecture.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"unknown architecture {name!r}; choose {', '.join(ARCHITECTURES)}")
    module, _, class_name = ARCHITECTURES[name].partition(":")
    kind: type[SparseAutoencoder] = getattr(import_module(module), class_name)
    return kind


def build_sae(architecture: str, d_in: int, d_sae: int, seed: int = 0, **settings: Any) -> SparseAutoencoder:
    """A fresh autoencoder.

    Args:
        architecture: a key of `ARCHITECTURES`.
        d_in: width of the activations.
        d_sae: number of latents.
        seed: of the weights.
        **settings: what the architecture needs besides, such as `k` or `penalty`.

    Raises:
        UserError: an unknown architecture, or settings out of range.
    """
    return architecture_class(architecture)(d_in, d_sae, seed, **settings)
