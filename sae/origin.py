"""Whether an autoencoder is applied to the model whose activations it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

from hooked import HookedModel, differences
from sae.architectures.core import SparseAutoencoder
from triggerlens import say_once

ORIGIN = "models"
"""Key of an autoencoder's metadata: what `hooked.provenance_of` said of each model that it was trained on."""


def other_model(sae: SparseAutoencoder, models: Sequence[HookedModel]) -> str | None:
    """A line, said once on stderr too, where the models are not those of the autoencoder's metadata; None where they are, or
    where the metadata do not say.

    Args:
        sae: as trained or loaded.
        models: which it is applied to, a crosscoder's in order.
    """
    weights = sae.metadata.get("weights_sha256") or [""] * len(models)
    saved = sae.metadata.get(ORIGIN) or [{}] * len(models)
    if isinstance(weights, str):
        weights = [weights]
    if len(weights) != len(models) or len(saved) != len(models):
        return None
    for model, then, digest in zip(models, saved, weights, strict=True):
        if ways := differences(then, model, digest):
            line = (
                f"the autoencoder was trained on {sae.metadata.get('model_name', 'another model')}, and {model.info.name} has "
                f"{' and '.join(ways)}: its latents and its thresholds were not fitted to these activations"
            )
            say_once(line)
            return line
    return None
