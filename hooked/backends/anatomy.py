"""Where a decoder block of a `transformers` model reads and writes the residual stream.

One table of module names serves every architecture; nothing is wrapped or copied per model family. What a name
promises is checked numerically when a model is loaded (`hooked.selfcheck`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from triggerlens import UserError

Layout = Literal["separate", "stacked", "interleaved"]
"""A module each; or one for all, with all queries before all keys and values; or head by head."""

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
_SEPARATE = ("q_proj", "k_proj", "v_proj")
_FUSED: dict[str, Layout] = {"c_attn": "stacked", "qkv_proj": "stacked", "query_key_value": "interleaved"}
# Gemma 2 and 3, OLMo 2: a norm follows each sub-layer, and its output is what the stream receives.
_POST_ATTENTION, _POST_MLP = "post_attention_layernorm", "post_feedforward_layernorm"


@dataclass(frozen=True)
class Projections:
    """The modules that give queries, keys and values, and where a head's part stands among the columns of their output."""

    modules: tuple[str, str, str]
    """Of queries, keys and values, as paths in a block; three times the same where one module gives all."""
    layout: Layout

    def columns(self, kind: str, head: int, heads: tuple[int, int, int], size: int) -> slice:
        """Columns of one head; `heads` counts those of queries, keys and values, `size` is that of a head."""
        which = "qkv".index(kind)
        if self.layout == "interleaved":
            first = 3 * head + which
        else:
            first = head + (sum(heads[:which]) if self.layout == "stacked" else 0)
        return slice(first * size, (first + 1) * size)


@dataclass(frozen=True)
class Anatomy:
    """Module paths; those of a block are relative to it."""

    blocks: str
    """The list of decoder blocks."""
    out_projection: str
    """The attention's output projection: its input is the heads' values, side by side."""
    attn_out: str
    """The module whose output the attention adds to the stream."""
    mlp: str
    """The MLP itself; where a norm follows it, `mlp_out` is that norm."""
    mlp_out: str
    """The module whose output the MLP adds to the stream."""
    post_norms: bool
    """Whether a norm follows each sub-layer, so that `attn_out` is no sum of `head_out`."""
    parallel: bool = False
    """Attention and MLP both read the block's input (GPT-NeoX): there is no `resid_mid`. Found by trial when loading."""
    positionwise: bool = False
    """The MLP gives each position the same whether or not it sees the others. Found by trial when loading."""
    projections: Projections | None = None
    """None where the sites inside attention are not to be had: not found, or not what their names say when tried."""

    @property
    def attention(self) -> str:
        """The attention module, in a block."""
        return self.out_projection.rpartition(".")[0]

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
        mlp=mlp,
        mlp_out=_POST_MLP if post_norms else mlp,
        post_norms=post_norms,
        projections=_find_projections(
            block.get_submodule(projection.rpartition(".")[0]), projection.rpartition(".")[0]
        ),
    )


def _find_projections(attention: nn.Module, path: str) -> Projections | None:
    if all(hasattr(attention, name) for name in _SEPARATE):
        q, k, v = (f"{path}.{name}" for name in _SEPARATE)
        return Projections((q, k, v), "separate")
    for name, layout in _FUSED.items():
        if hasattr(attention, name):
            return Projections((f"{path}.{name}",) * 3, layout)
    return None


def _first(module: nn.Module, paths: Sequence[str], problem: str) -> str:
    for path in paths:
        try:
            module.get_submodule(path)
        except AttributeError:
            continue
        return path
    raise UserError(f"{problem}; this architecture is not supported")
