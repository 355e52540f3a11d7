"""Whether a prompt may share a batch with longer ones: tried when a model is loaded, since much may break it.

Prompts are padded on the right without a mask, which is exact where no token sees what stands to its right and nothing depends
on how wide the batch is. A model that attends both ways breaks the first; rotary embeddings that are rescaled for long texts,
windows, chunks and the capacity of experts may break the second, mostly past a length that the configuration names.

1. A short prompt is run alone, beside a copy of itself, and padded beside a longer one. A model that differs is refused.
2. The same past every length that the configuration names, in the blocks up to the first one of each kind. A model that differs
   there pads prompts together only up to that length; longer ones share a batch with prompts of their own length alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hooked.model import HookedModel
from triggerlens import UserError

_SHORT, _LONG = 6, 11
_OPERATIONS = 4e11
"""The most multiplications and additions that a trial past one length may take: about a second of two cores."""
_RESCALED = ("dynamic", "longrope")
"""Rotary embeddings that depend on the longest text of a batch, once it is longer than the model was first trained on."""


@torch.no_grad()
def widest_padding(model: HookedModel) -> int | None:
    """The widest batch, in tokens, in which shorter prompts may be padded; None where any may.

    Raises:
        UserError: a prompt's activations depend on what it shares a batch with.
    """
    alone = _row(model, _SHORT)
    copies, padded = alone.repeat(2, 1), torch.stack([_padded(alone, _LONG)[0], _row(model, _LONG)[0]])
    last = model.info.n_layers - 1
    if not _alike(model, alone, copies, last):
        raise UserError(
            f"{model.info.name}: a prompt gets other activations in a batch than alone; this model cannot be read"
        )
    if not _alike(model, alone, padded, last):
        raise UserError(
            f"{model.info.name}: is not causal: a token's activations change with the tokens after it; only models that read from "
            "left to right can be read here"
        )
    breaking = [length for length in _named_lengths(model) if not _holds_past(model, length)]
    return min(breaking, default=None)


def check_widths(model: HookedModel, lengths: Iterable[int]) -> None:
    """Refuse a batch of prompts of these lengths where the model cannot pad it.

    Raises:
        UserError: they differ, and the longest exceeds what the model can be padded to.
    """
    distinct = set(lengths)
    if model.padded_to is not None and len(distinct) > 1 and max(distinct) > model.padded_to:
        raise UserError(
            f"{model.info.name}: prompts of {min(distinct)} and {max(distinct)} tokens cannot share a batch, since above "
            f"{model.padded_to} tokens this model computes each text by the longest beside it; use a batch size of 1, or shorter prompts"
        )


def _named_lengths(model: HookedModel) -> list[int]:
    """Lengths at which the configuration says that something changes, within the context."""
    config = model.hf_model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    ropes = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    named = [
        getattr(config, name, None)
        for name in ("sliding_window", "attention_chunk_size", "original_max_position_embeddings")
    ]
    named += [part.get("original_max_position_embeddings") for part in ropes]
    if _rescaled(config):
        named.append(getattr(config, "max_position_embeddings", None))
    return sorted({length for length in named if isinstance(length, int) and length > _SHORT})


def _rescaled(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope.get("rope_type") or rope.get("type")]
    kinds += [part.get("rope_type") or part.get("type") for part in rope.values() if isinstance(part, dict)]
    return any(kind in _RESCALED for kind in kinds)


def _holds_past(model: HookedModel, length: int) -> bool:
    """Whether a prompt below a length is the same beside one above it. Too long to be tried, it is judged by the configuration."""
    last = _first_of_each_kind(model)
    weights = sum(parameter.numel() for layer in range(last + 1) for parameter in model.block(layer).parameters())
    if 2 * weights * (length + 1) > _OPERATIONS:
        return not _rescaled(model.hf_model.config.get_text_config())
    alone = _row(model, min(length - 1, 2 * _SHORT))
    return _alike(model, alone, _padded(alone, length + 1), last)


def _first_of_each_kind(model: HookedModel) -> int:
    kinds = getattr(model.hf_model.config.get_text_config(), "layer_types", None)
    return max((kinds.index(kind) for kind in set(kinds)), default=0) if kinds else 0


def _alike(model: HookedModel, alone: Tensor, batch: Tensor, last_layer: int) -> bool:
    site = f"resid_post.{last_layer}"
    expected, seen = (
        model.run(tokens, reads=[site], last_layer=last_layer).activations[site] for tokens in (alone, batch)
    )
    expected, seen = expected.float(), seen[:1, : alone.shape[1]].float()
    tolerance = 256 * torch.finfo(model.dtype).eps * max(1e-3, float(expected.abs().max()))
    return bool((seen - expected).abs().max() <= tolerance)


def _row(model: HookedModel, length: int) -> Int[Tensor, "1 position"]:
    return torch.linspace(1, model.vocabulary - 1, length).long()[None]


def _padded(row: Int[Tensor, "1 position"], width: int) -> Int[Tensor, "1 padded"]:
    return torch.cat([row, row[:, :1].expand(-1, width - row.shape[1])], dim=1)
