"""Attention patterns of a plain `transformers` model: read and replaced inside its attention function.

No module gives the pattern, and the fast attention functions never form it. While patterns are asked for, the model's
attention goes through a function registered here, which calls the model's own `eager_attention_forward`, hands the pattern
on, and mixes the values by what comes back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from hooked.backends.anatomy import Anatomy
from hooked.backends.attention_functions import attention_through, eager_attention
from hooked.backends.visits import Visit
from triggerlens import UserError

_NAME = "triggerlens-patterns"
_handlers: ContextVar[dict[nn.Module, list[Callable[[Tensor], Tensor]]]] = ContextVar("handlers")


@contextmanager
def attending(hf_model: nn.Module, anatomy: Anatomy, visits: Sequence[Visit]) -> Iterator[None]:
    """Carry out visits of patterns, each [batch head query_position key_position], in the forward passes within.

    Raises:
        UserError: the model's attention is not written as this needs it.
    """
    if not visits:
        yield
        return
    from transformers.masking_utils import eager_mask

    blocks: Any = hf_model.get_submodule(anatomy.blocks)
    modules = {
        layer: block.get_submodule(anatomy.attention)
        for layer, block in enumerate(blocks)
        if anatomy.has_attention(layer)
    }
    if not all(hasattr(module, "config") and eager_attention(module) for module in modules.values()):
        raise UserError(f"{type(hf_model).__name__}: its attention patterns cannot be read")
    handlers = defaultdict(list)
    for visit in visits:
        handlers[modules[visit.layer]].append(visit.handle)
    decoder: Any = hf_model.get_submodule(anatomy.blocks.rpartition(".")[0])
    configs = [owner.config for owner in (decoder, *modules.values())]
    token = _handlers.set(dict(handlers))
    try:
        with attention_through(configs, _NAME, _attention, eager_mask):
            yield
    finally:
        _handlers.reset(token)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor]:
    """An attention function of `transformers`: [batch head position d_head] in, [batch position head d_head] out."""
    eager = eager_attention(module)
    assert eager is not None  # attending() has looked
    output, pattern = eager(module, query, key, value, attention_mask, **options)
    replaced = pattern
    for handle in _handlers.get().get(module, ()):
        replaced = handle(replaced)
    if replaced is pattern:
        return output, pattern
    each = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return torch.matmul(replaced, each).transpose(1, 2).contiguous(), replaced
