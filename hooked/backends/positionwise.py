"""An MLP at some positions alone.

An MLP takes each position by itself. Where a run stops after a layer and only some positions of it will be looked at (the
last token of each prompt, mostly), that layer's MLP, two thirds of a Llama block's weights, can pass over all others: no
later layer reads what it would have added there. Attention is left as it is: it mixes positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn


@contextmanager
def only_at(mlp: nn.Module, needed: Bool[Tensor, "batch position"]) -> Iterator[None]:
    """Within, `mlp` runs at the needed positions and gives zeros at the others."""
    rows, columns = needed.nonzero(as_tuple=True)

    def gather(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        value, *others = args
        # One row of a batch, not a matrix: a mixture of experts wants three axes.
        return (value[rows.to(value.device), columns.to(value.device)][None], *others), kwargs

    def scatter(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        full = output.new_zeros(*needed.shape, output.shape[-1])
        full[rows.to(full.device), columns.to(full.device)] = output[0]
        return full

    handles = [
        mlp.register_forward_pre_hook(gather, with_kwargs=True),
        mlp.register_forward_hook(scatter, prepend=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
