"""Where a decoder block of a `transformers` model reads and writes the residual stream.

One table of module names serves every architecture; nothing is wrapped or copied per model family. What a name
promises is checked numerically when a model is loaded (`hooked.selfcheck`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from hooked.errors import UserError

_BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers", "model.language_model.layers", "model.decoder.layers")
_OUT_PROJECTION = (
    "self_attn.o_proj",
    "attn.c_proj",
    "attention.dense",
    "attn.out_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "self_attention.dense",
)
_MLP = ("mlp", "feed_forward")
# Gemma 2 and 3, OLMo 2: a norm follows each sub-layer, and its output is what the stream receives.
_POST_ATTENTION, _POST_MLP = "post_attention_layernorm", "post_feedforward_layernorm"


@dataclass(frozen=True)
class Anatomy:
    """Module paths; those of a block are relative to it."""

    blocks: str
    """The list of decoder blocks."""
    out_projection: str
    """The attention's output projection: its input is the heads' values, side by side."""
    attn_out: str
    """The module whose output the attention adds to the stream."""
    mlp_out: str
    """The module whose output the MLP adds to the stream."""
    post_norms: bool
    """Whether a norm follows each sub-layer, so that `attn_out` is no sum of `head_out`."""
    parallel: bool = False
    """Attention and MLP both read the block's input (GPT-NeoX): there is no `resid_mid`. Found by trial when loading."""

    def block_path(self, layer: int, module: str = "") -> str:
        """The full path of a block, or of a module in it."""
        return f"{self.blocks}.{layer}" + (f".{module}" if module else "")


def find_anatomy(model: nn.Module) -> Anatomy:
    """Find the blocks and their parts by name.

    Raises:
        UserError: the model has none of the known layouts.
    """
    label = type(model).__name__
    blocks = _first(model, _BLOCKS, f"{label}: its decoder blocks were not found (looked for {', '.join(_BLOCKS)})")
    block = model.get_submodule(blocks)[0]  # type: ignore[index]
    projection = _first(
        block, _OUT_PROJECTION, f"{label}: the attention's output projection was not found in {blocks}.0"
    )
    mlp = _first(block, _MLP, f"{label}: the MLP was not found in {blocks}.0")
    post_norms = hasattr(block, _POST_MLP)
    return Anatomy(
        blocks=blocks,
        out_projection=projection,
        attn_out=_POST_ATTENTION if post_norms else projection,
        mlp_out=_POST_MLP if post_norms else mlp,
        post_norms=post_norms,
    )


def _first(module: nn.Module, paths: Sequence[str], problem: str) -> str:
    for path in paths:
        try:
            module.get_submodule(path)
        except AttributeError:
            continue
        return path
    raise UserError(f"{problem}; this architecture is not supported")
