"""What every kind of probe shares: how it is fitted from a stream, and scikit-learn's way of reading it, for all layers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from probes.config import TrainConfig

Batch = tuple[Int[Tensor, "row"], Float[Tensor, "row layer d_model"]]
"""Which prompts, and their activations."""
Coefficients = tuple[Float[Tensor, "problem *channel d_model"], Float[Tensor, "problem"]]
"""Weights and intercepts, float64, on the CPU."""


@dataclass(frozen=True, slots=True)
class FitRows:
    """The rows that a probe is fitted to."""

    stream: Callable[[], Iterator[Batch]]
    """Their activations, in batches and in any order; the first of a batch says which rows, as counted in `labels`."""
    labels: Bool[np.ndarray, "fit"]
    shuffles: Bool[np.ndarray, "shuffle fit"]
    """Permutations of the labels, for the control."""
    device: str | None = None
    """Where to fit; None fits where the activations are."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A probe at every layer, and the same method refitted on shuffled labels at one layer."""

    coef: Float[Tensor, "layer d_model"]
    """float64, on the CPU."""
    intercept: Float[Tensor, "layer"]
    shuffled: Callable[[int], Coefficients]
    """From a layer's index to one probe for each shuffle; of a learned pooling, its weights are heads [shuffle channel d_model]."""
    heads: Float[Tensor, "layer channel d_model"] | None = None
    """Directions of a learned pooling that reads several, in the activations' own units; `coef` is then their score of a single token."""


class LinearClassifier:
    """A linear score per layer. Fitted attributes end in an underscore, as in scikit-learn.

    A kind of probe needs `fit`. It overrides `configured` where it has settings, and `fit_rows` where it can do with less memory,
    or refit on shuffled labels for less, than all rows and a fit for each shuffle.
    """

    coef_: Float[Tensor, "layer d_model"]
    """Weights, float64, on the device of the data that they were fitted to."""
    intercept_: Float[Tensor, "layer"]
    """float64, beside `coef_`."""

    @classmethod
    def configured(cls, config: TrainConfig) -> LinearClassifier:
        """An unfitted probe with the settings of a run."""
        return cls()

    def fit(self, x: Float[Tensor, "prompt *layer d_model"], y: Shaped[Tensor, "prompt"]) -> LinearClassifier:
        """Fit every layer to labels (0/1 or false/true). Returns self."""
        raise TypeError(f"{type(self).__name__} has no `fit`")

    def fit_rows(self, rows: FitRows) -> Fitted:
        """Fit every layer, and at one layer each shuffle: here with all rows in memory."""
        x = gather(rows.stream(), len(rows.labels))
        x = x if rows.device is None else x.to(rows.device)
        self.fit(x, torch.from_numpy(rows.labels))

        def shuffled(layer: int) -> Coefficients:
            fits = [copy(self).fit(x[:, layer : layer + 1], torch.from_numpy(labels)) for labels in rows.shuffles]
            return torch.cat([fit.coef_ for fit in fits]).cpu(), torch.cat([fit.intercept_ for fit in fits]).cpu()

        return Fitted(self.coef_.cpu(), self.intercept_.cpu(), shuffled)

    def decision_function(self, x: Float[Tensor, "prompt *layer d_model"]) -> Float[Tensor, "prompt *layer"]:
        """Score per prompt and layer, positive on the side of the positive class; float64.

        Without the layer axis the probe must have been fitted to one layer.
        """
        if x.ndim == 2:
            return linear_scores(x[:, None], self.coef_, self.intercept_)[:, 0]
        return linear_scores(x, self.coef_, self.intercept_)

    def predict_proba(self, x: Float[Tensor, "prompt *layer d_model"]) -> Float[Tensor, "prompt *layer 2"]:
        """Probability of the negative and of the positive class."""
        score = self.decision_function(x)
        return torch.stack([torch.sigmoid(-score), torch.sigmoid(score)], dim=-1)

    def predict(self, x: Float[Tensor, "prompt *layer d_model"]) -> Shaped[Tensor, "prompt *layer"]:
        """True where the score is positive."""
        return self.decision_function(x) > 0


def linear_scores(
    x: Float[Tensor, "row layer d_model"], coef: Float[Tensor, "layer d_model"], intercept: Float[Tensor, "layer"]
) -> Float[Tensor, "row layer"]:
    """x . coef + intercept at every layer, in float64.

    Raises:
        ValueError: `x` has other layers or another width than `coef`.
    """
    if x.shape[1:] != coef.shape:
        raise ValueError(f"activations are {tuple(x.shape[1:])} (layer, width), the probe is {tuple(coef.shape)}")
    coef, intercept = coef.to(x.device), intercept.to(x.device)
    return torch.stack([x[:, i].double() @ coef[i] for i in range(len(coef))], dim=1) + intercept


def gather(batches: Iterable[Batch], count: int, layer: int | None = None) -> Float[Tensor, "row layer d_model"]:
    """`count` rows of a stream in their order, in float32 at least; of one layer only where it is given.

    Raises:
        ValueError: the stream is empty.
    """
    out: Tensor | None = None
    for index, x in batches:
        x = x if layer is None else x[:, layer : layer + 1]
        if out is None:
            dtype = torch.promote_types(x.dtype, torch.float32)
            out = torch.empty(count, *x.shape[1:], dtype=dtype, device=x.device)
        out[index] = x.to(out.dtype)
    if out is None:
        raise ValueError("no rows to gather")
    return out


def as_layers(x: Float[Tensor, "prompt *layer d_model"]) -> Float[Tensor, "prompt layer d_model"]:
    """Give a [prompt d_model] matrix a layer axis of one; leave a 3-D tensor as it is."""
    return x[:, None] if x.ndim == 2 else x


def check_labels(
    y: Shaped[Tensor, "prompt *problem"], x: Shaped[Tensor, "prompt layer d_model"]
) -> Shaped[Tensor, "layer prompt"]:
    """Labels of every layer's problem in float64, checked to hold both classes.

    Raises:
        ValueError: other values than 0 and 1, other sizes than `x`, or a single class.
    """
    y = y.to(device=x.device, dtype=torch.float64)
    if y.ndim == 1:
        y = y[:, None].expand(-1, x.shape[1])
    if tuple(y.shape) != tuple(x.shape[:2]):
        raise ValueError(f"labels are {tuple(y.shape)}, activations {tuple(x.shape)}")
    if not bool(((y == 0) | (y == 1)).all()):
        raise ValueError("labels must be 0 or 1")
    if bool((y.amin(0) == y.amax(0)).any()):
        raise ValueError("labels hold one class only; a probe needs both")
    return y.T
