"""Input and output embedding that are one matrix, where an adapter changes only one of them.

PEFT adapts the module that it is told to, and the other one goes on with the base's values; merged into the one matrix, the change
would reach both. So they are made two before an adapter is merged, and one again only where they are still the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def untied_if_changed(model: Any) -> Iterator[None]:
    """Within, the two embeddings are matrices of their own; after it they are one where they were one and are equal."""
    own = _plain(model.get_output_embeddings())
    tied = own is not None and own.weight is _plain(model.get_input_embeddings()).weight
    keys = getattr(model, "all_tied_weights_keys", {})
    if tied:
        own.weight = nn.Parameter(own.weight.detach().clone(), requires_grad=False)
        _mark(model, False, {})
    yield
    if tied:
        first, last = _plain(model.get_input_embeddings()), _plain(model.get_output_embeddings())
        if torch.equal(first.weight, last.weight):
            last.weight = first.weight
            _mark(model, True, keys)


def _plain(module: Any) -> Any:
    """The module of the base inside what PEFT has put around it."""
    return getattr(module, "base_layer", getattr(module, "original_module", module))


def _mark(model: Any, tied: bool, keys: Any) -> None:
    for config in {id(config): config for config in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = tied
    model.all_tied_weights_keys = keys
