"""From scores of tokens to the score of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from probes.poolings import new_pooling
from triggerlens import UserError


def aggregate(
    scores: Float[Tensor, "token *layer"], lengths: Sequence[int], how: str
) -> Float[Tensor, "prompt *layer"]:
    """Aggregate the token scores of several prompts, laid end to end.

    Args:
        scores: token scores of all prompts; a score is linear, so the mean of scores is the score of the mean.
        lengths: tokens of each prompt, in order; every one at least 1.
        how: `last`, `mean`, `max`, `first:N` or `rolling`: a pooling that reads one score a token.

    Raises:
        ValueError: the lengths do not add up, one of them is below 1, or `how` is none of these.
    """
    try:
        pooling = new_pooling(how)
    except UserError as error:
        raise ValueError(f"unknown aggregation {how!r}: {error}") from error
    if pooling.channels != 1:
        raise ValueError(f"{how} reads {pooling.channels} scores of a token; use `new_pooling`")
    return pooling(scores[..., None], lengths)
