"""Activations as experiments need them: whole tensors, in the order of the prompts."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float

import hooked
from experiments.shared.later import torch


def middle_layer(n_layers: int) -> int:
    """The block after which half of them have run: fixed in advance, so nothing is chosen on labels."""
    return max(0, n_layers // 2 - 1)


def last_token(
    model: hooked.HookedModel, prompts: Sequence[hooked.Prompt | hooked.TokenizedPrompt], sites: Sequence[str]
) -> Float[torch.Tensor, "prompt site d_model"]:
    """Activations at each prompt's final token, in float32: what the model has before it says anything.

    Raises:
        UserError: as `hooked.stream_activations`.
    """
    out = torch.empty(len(prompts), len(sites), model.info.d_model)
    for batch in hooked.stream_activations(model, prompts, hooked.ExtractionSpec(tuple(sites)), total=len(prompts)):
        out[batch.indices] = batch.values.float()
    return out
