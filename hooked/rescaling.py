"""Rotary embeddings that are rescaled for long texts: what a text's own length decides, so that nothing else may.

Dynamic NTK scaling computes the frequencies anew for every length past the one that the model was trained on; LongRoPE has two
sets, one for short texts and one for long ones. Both go by the longest text of a batch, and a module of the first kind remembers
the longest text that it ever saw. So texts of other lengths share no batch past that length, a key-value cache is made anew where the
frequencies change, and every run begins without memories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Rescaling:
    """When the frequencies of a model's rotary embeddings change."""

    past: int
    """Texts of up to so many tokens are read with the frequencies of training."""
    growing: bool
    """Past that, whether each length has frequencies of its own; otherwise all longer texts share one set."""
    reach: float = 1.0
    """By what factor the longest text that can be read exceeds the configuration's `max_position_embeddings`."""

    def changes_at(self, length: int) -> bool:
        """Whether a text of this length has other frequencies than one a token shorter."""
        return length > self.past and (self.growing or length == self.past + 1)


def rescaling_of(config: Any) -> Rescaling | None:
    """How a configuration rescales its rotary embeddings by the length of the text; None where it does not."""
    config = config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    ropes = list(_ropes(config))
    dynamic = [rope for rope in ropes if "dynamic" in _kind(rope)]
    rescalings = [Rescaling(longest, True, max(1.0, float(rope.get("factor") or 1))) for rope in dynamic if longest]
    for rope in ropes:
        own, outer = (
            rope.get("original_max_position_embeddings"),
            getattr(config, "original_max_position_embeddings", None),
        )
        original = outer or own or longest
        if _kind(rope) == "longrope" and original:
            rescalings.append(Rescaling(int(original), False))
    return min(rescalings, key=lambda rescaling: rescaling.past, default=None)


def forget_lengths(model: nn.Module, config: Any) -> None:
    """Let a model's rotary embeddings forget the longest text that they have seen."""
    rescaling = rescaling_of(config)
    if rescaling is None or not rescaling.growing:
        return
    for module in model.modules():
        usual = getattr(module, "original_max_seq_len", None)
        if usual is None or not hasattr(module, "max_seq_len_cached"):
            continue
        for name in [name for name in module._buffers if name.endswith("original_inv_freq")]:
            prefix = name.removesuffix("original_inv_freq")
            if getattr(module, f"{prefix}max_seq_len_cached", usual) != usual:
                own: Any = module.get_buffer(name)
                module.register_buffer(f"{prefix}inv_freq", own, persistent=False)
                setattr(module, f"{prefix}max_seq_len_cached", usual)


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """The settings of the rotary embeddings, of each kind of layer where they differ, in every spelling."""
    for field in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, field, None)
        if isinstance(rope, Mapping):
            yield rope
            yield from (part for part in rope.values() if isinstance(part, Mapping))


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "")
