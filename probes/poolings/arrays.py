"""Scores in numpy or in torch, which running forms treat alike.

On a processor numpy does a small operation in a third of torch's time, and a token's scores are small; on a GPU scores stay there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray | float
"""Of one text, a number."""


def library_of(x: Array) -> Any:
    """Where `maximum`, `exp`, `where` and `zeros` of such an array are."""
    return torch if isinstance(x, Tensor) else np


def as_array(x: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """The same memory as numpy's where it is a processor's, and numpy knows the type."""
    if not isinstance(x, Tensor) or not x.is_cpu:
        return x
    if x.requires_grad:
        x = x.detach()
    return (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()


def double(x: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """In float64."""
    return x.double() if isinstance(x, Tensor) else x.astype(np.float64, copy=False)
