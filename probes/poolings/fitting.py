"""A learned pooling on the tokens of a run: every layer, then the shuffled labels at one layer, in the activations' own units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.classifiers.base import Coefficients, Fitted
from probes.poolings.base import Learned, Pooling
from probes.poolings.rows import TokenRows, collect, layers_at_once


@dataclass(frozen=True, slots=True)
class FitTokens:
    """The texts that a pooling is fitted to."""

    stream: Callable[[slice], Iterator[tuple[int, Float[Tensor, "token layer d_model"]]]]
    """Number and tokens of each text at some layers, in any order."""
    lengths: Int[Tensor, "text"]
    labels: Bool[np.ndarray, "text"]
    shuffles: Bool[np.ndarray, "shuffle text"]


def fit_learned(pooling: Pooling, tokens: FitTokens, layers: int, C: float) -> Fitted:
    """Fit at every layer, as many at once as `probes.poolings.rows.MEMORY` holds the tokens of."""
    width = next(tokens.stream(slice(0, 1)))[1].shape[-1]
    at_once = layers_at_once(int(tokens.lengths.sum()), layers, width)
    labels = torch.from_numpy(tokens.labels).double()
    parts = []
    for start in range(0, layers, at_once):
        rows, mean, inverse = _normalised(pooling, tokens, slice(start, min(start + at_once, layers)))
        learned = pooling.fit(rows, labels.expand(len(mean), -1), C)
        parts.append(own_units(pooling, learned, mean, inverse))
    heads, intercept = (torch.cat(column) for column in zip(*parts, strict=True))

    def shuffled(layer: int) -> Coefficients:
        rows, mean, inverse = _normalised(pooling, tokens, slice(layer, layer + 1))
        learned = pooling.fit(rows, torch.from_numpy(tokens.shuffles).double(), C)
        return own_units(pooling, learned, mean, inverse)

    coef = pooling.of_one_token(heads)
    return Fitted(coef, intercept, shuffled, heads if pooling.channels > 1 else None)


def _normalised(
    pooling: Pooling, tokens: FitTokens, layers: slice
) -> tuple[TokenRows, Float[Tensor, "layer d_model"], Float[Tensor, "layer"]]:
    rows = collect(tokens.stream(layers), tokens.lengths, layers.stop - layers.start)
    pooling.prepare(rows)
    return rows, *rows.normalise()


def own_units(
    pooling: Pooling, learned: Learned, mean: Float[Tensor, "layer d_model"], inverse: Float[Tensor, "layer"]
) -> tuple[Float[Tensor, "problem channel d_model"], Float[Tensor, "problem"]]:
    """Heads and intercept for tokens that are not normalised: the intercept takes up the shift of what is read of every token."""
    heads = learned.heads * inverse[:, None, None]
    return heads, learned.intercept - (pooling.of_one_token(heads) * mean).sum(1)


def channel_scores(
    x: Float[Tensor, "row d_model"], heads: Float[Tensor, "probe channel d_model"], intercept: Float[Tensor, "probe"]
) -> Float[Tensor, "row probe channel"]:
    """Scores of rows at one layer in float64, the intercept in channel 0."""
    scores = x.double() @ heads.flatten(0, 1).T.to(x.device)
    if heads.shape[1] == 1:
        return (scores + intercept.to(x.device))[..., None]
    scores = scores.unflatten(1, heads.shape[:2])
    scores[..., 0] += intercept.to(x.device)
    return scores
