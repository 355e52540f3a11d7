"""Attention functions of our own in a `transformers` model: put in its configuration for a while, and taken out again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def attention_through(
    configs: Iterable[Any], name: str, function: Callable[..., Any], mask: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Within, attention modules of these configurations call `function`.

    Args:
        configs: of the modules, and of what makes their masks; mostly one and the same object.
        name: what `transformers` will know the function by.
        function: an attention function of `transformers`: queries, keys and values [batch head position d_head] in,
            [batch position head d_head] and the pattern or None out.
        mask: makes the mask that it takes; where None, the modules' masks are made as for no known function.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, function)
    if mask is not None:
        AttentionMaskInterface.register(name, mask)
    configs = list({id(config): config for config in configs}.values())
    usual = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        for config, before in zip(configs, usual, strict=True):
            config._attn_implementation = before


def eager_attention(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The attention function that forms its pattern, as the file that defines the module has it; None where it has none."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
