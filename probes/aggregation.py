"""From scores of tokens to the score of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probes.config import AGGREGATIONS, Aggregation


def aggregate(
    scores: Float[Tensor, "token *layer"], lengths: Sequence[int], how: Aggregation
) -> Float[Tensor, "prompt *layer"]:
    """Aggregate the token scores of several prompts, laid end to end.

    Args:
        scores: token scores of all prompts; a score is linear, so the mean of scores is the score of the mean.
        lengths: tokens of each prompt, in order; every one at least 1.
        how: `last`, `mean` or `max`.

    Raises:
        ValueError: the lengths do not add up, one of them is below 1, or `how` is unknown.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {how!r}; one of {', '.join(AGGREGATIONS)}")
    if sum(lengths) != len(scores) or min(lengths, default=1) < 1:
        raise ValueError(f"lengths must be positive and add up to {len(scores)} tokens, found {list(lengths)[:8]}")
    pieces = scores.split(list(lengths))
    reduce = {"last": lambda s: s[-1], "mean": lambda s: s.mean(0), "max": lambda s: s.amax(0)}[how]
    return torch.stack([reduce(piece) for piece in pieces]) if pieces else scores
