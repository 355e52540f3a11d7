"""Where a decoder block of a `transformers` model reads and writes the residual stream.

One table of module names serves every architecture; nothing is wrapped or copied per model family. What a name
promises is checked numerically when a model is loaded (`hooked.selfcheck`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from triggerlens import UserError

Layout = Literal["separate", "stacked", "interleaved", "grouped", "quartered"]
"""How queries, keys and values of the heads stand in what the projections give: a module each; or one module for all, with all
queries before all keys and values; head by head; for each key its queries, itself and its value (Falcon); or four times the
queries, values and keys of a quarter of the heads (CodeGen)."""

_BLOCKS = (
    "model.layers",
    "transformer.h",
    "gpt_neox.layers",
    "model.language_model.layers",
    "model.decoder.layers",
    "transformer.blocks",
)
_OUT_PROJECTION = (
    "self_attn.o_proj",
    "attn.c_proj",
    "attention.dense",
    "attn.out_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "self_attention.dense",
    "attn.attention.out_proj",
)
# What mixes positions in the blocks of a hybrid model that have no attention: LFM2's convolutions, Qwen3-Next's linear attention.
_OTHER_MIXERS = ("conv", "linear_attn")
_MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "fc2")
# BLOOM's and MPT's MLP adds the stream to what it gives; its last projection gives what is added.
_MLP_WITH_STREAM = {"Bloom": "mlp.dense_4h_to_h", "Mpt": "ffn.down_proj"}
_SEPARATE = ("q_proj", "k_proj", "v_proj")
_FUSED: dict[str, tuple[Layout, ...]] = {
    "c_attn": ("stacked",),
    "qkv_proj": ("stacked", "quartered"),
    "Wqkv": ("stacked",),
    "query_key_value": ("interleaved", "stacked", "grouped"),
}
# A norm that follows a sub-layer gives what the stream receives. OLMo 2 and Gemma call the one after attention as Llama calls the
# one before the MLP; so it counts only where the other one is there too.
_POST_NORMS = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
)


@dataclass(frozen=True)
class Projections:
    """The modules that give queries, keys and values, and where a head's part stands among the columns of their output."""

    modules: tuple[str, str, str]
    """Paths in a block of the modules for queries, keys and values; three times the same path if one module gives all."""
    layout: Layout

    def columns(self, kind: str, head: int, heads: tuple[int, int, int], size: int) -> slice:
        """Columns of one head; `heads` counts those of queries, keys and values, `size` is that of a head."""
        which = "qkv".index(kind)
        first = {
            "separate": head,
            "stacked": head + sum(heads[:which]),
            "interleaved": 3 * head + which,
            "grouped": self._grouped(which, head, heads),
            "quartered": self._quartered(which, head, heads),
        }[self.layout]
        return slice(first * size, (first + 1) * size)

    @staticmethod
    def _grouped(which: int, head: int, heads: tuple[int, int, int]) -> int:
        group = heads[0] // heads[1]
        return head // group * (group + 2) + head % group if which == 0 else head * (group + 2) + group + which - 1

    @staticmethod
    def _quartered(which: int, head: int, heads: tuple[int, int, int]) -> int:
        local = max(1, heads[0] // 4)
        return head // local * 3 * local + (0, 2, 1)[which] * local + head % local


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
    other_mixers: tuple[str | None, ...] = ()
    """For each block the module that mixes positions in place of attention; None where the block has attention."""
    scale: float = 1.0
    """What a block multiplies the outputs of attention and MLP by before it adds them to the stream (Granite)."""
    parallel: bool = False
    """Attention and MLP both read the block's input (GPT-NeoX): there is no `resid_mid`. Found by trial when loading."""
    positionwise: bool = False
    """The MLP gives each position the same whether or not it sees the others. Found by trial when loading."""
    reuses_memory: bool = False
    """A block changes some module's output in place (Falcon), so that what is read must be copied. Found by trial."""
    flat_mlp: bool = False
    """The MLP gives its rows end to end, without an axis of the batch (OPT, Llama 4). Found by trial."""
    projections: Projections | None = None
    """None where no module gives queries, keys and values."""
    inner: tuple[str, ...] = ("q", "k", "v", "pattern")
    """The kinds of site inside attention that are what their names say. Found by trial when loading."""

    @property
    def attention(self) -> str:
        """The attention module, in a block."""
        return self.out_projection.rpartition(".")[0]

    @property
    def uniform(self) -> bool:
        """Whether each block adds the plain outputs of an attention and an MLP to the stream."""
        return self.scale == 1 and not any(self.other_mixers)

    def has_attention(self, layer: int) -> bool:
        """Whether a block has attention, and so heads."""
        return not self.other_mixers or self.other_mixers[layer] is None

    def attn_out_of(self, layer: int) -> str:
        """The module whose output is added to the stream before the MLP's: attention's, or that of what stands in its place."""
        return self.attn_out if self.has_attention(layer) else str(self.other_mixers[layer])

    def block_path(self, layer: int, module: str = "") -> str:
        """The full path of a block, or of a module in it."""
        return f"{self.blocks}.{layer}" + (f".{module}" if module else "")


def find_anatomy(model: nn.Module) -> Anatomy:
    """Find the blocks and their parts by name.

    Raises:
        UserError: the model has none of the known layouts.
    """
    label = type(model).__name__
    path = _first(model, _BLOCKS, f"{label}: its decoder blocks were not found (looked for {', '.join(_BLOCKS)})")
    blocks: Any = model.get_submodule(path)
    mixers = tuple(_other_mixer(block) for block in blocks)
    with_attention = next((layer for layer, mixer in enumerate(mixers) if mixer is None), None)
    if with_attention is None:
        raise UserError(f"{label}: no block of {path} has attention; this architecture is not supported")
    block = blocks[with_attention]
    projection = _first(
        block, _OUT_PROJECTION, f"{label}: the attention's output projection was not found in {path}.{with_attention}"
    )
    mlp = _first(block, _MLP, f"{label}: the MLP was not found in {path}.{with_attention}")
    for layer, other in enumerate(blocks):
        _first(other, (mlp,), f"{label}: block {layer} has no {mlp}, which block {with_attention} has")
        if mixers[layer] is None:
            _first(
                other, (projection,), f"{label}: block {layer} has no {projection}, which block {with_attention} has"
            )
    norms = next((names for names in _POST_NORMS if all(hasattr(block, name) for name in names)), None)
    stream = next((last for name, last in _MLP_WITH_STREAM.items() if type(block).__name__ == f"{name}Block"), None)
    return Anatomy(
        blocks=path,
        out_projection=projection,
        attn_out=norms[0] if norms else projection,
        mlp=mlp,
        mlp_out=norms[1] if norms else stream or mlp,
        post_norms=norms is not None,
        other_mixers=mixers if any(mixers) else (),
        scale=float(getattr(block, "residual_multiplier", 1.0)),
        projections=next(iter(candidate_projections(block, projection.rpartition(".")[0])), None),
    )


def candidate_projections(block: nn.Module, attention: str) -> list[Projections]:
    """Every way in which a block's attention may give queries, keys and values; which one it is, only a trial tells."""
    module = block.get_submodule(attention)
    if all(hasattr(module, name) for name in _SEPARATE):
        q, k, v = (f"{attention}.{name}" for name in _SEPARATE)
        return [Projections((q, k, v), "separate")]
    return [
        Projections((f"{attention}.{name}",) * 3, layout)
        for name, layouts in _FUSED.items()
        if hasattr(module, name)
        for layout in layouts
    ]


def _other_mixer(block: nn.Module) -> str | None:
    attention = {name.partition(".")[0] for name in _OUT_PROJECTION}
    if any(hasattr(block, name) for name in attention):
        return None
    return next((name for name in _OTHER_MIXERS if hasattr(block, name)), None)


def _first(module: nn.Module, paths: Sequence[str], problem: str) -> str:
    for path in paths:
        try:
            module.get_submodule(path)
        except AttributeError:
            continue
        return path
    raise UserError(f"{problem}; this architecture is not supported")
