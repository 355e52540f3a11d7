"""Fit a probe from a stream of activations, reading no more into memory than the method needs.

Mean difference and LDA see each row once and keep only moments. The logistic probe has to hold the fit split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import Prompt
from probes.classifiers.lda import LDAProbe
from probes.classifiers.logistic import LogisticProbe
from probes.classifiers.mean_difference import MeanDifferenceProbe
from probes.classifiers.moments import Moments
from probes.config import TrainConfig
from triggerlens import UserError

Batch = tuple[Int[Tensor, "row"], Float[Tensor, "row layer d_model"]]
Source = Callable[[Sequence[int]], Iterator[Batch]]
"""Gives the activations of the asked prompts in batches, in any order: prompt indices, and their rows."""

CONSTANT = 1e-6
"""A layer whose spread is below this share of its size holds float32 rounding and nothing else."""

Coefficients = tuple[Float[Tensor, "problem d_model"], Float[Tensor, "problem"]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A probe at every layer, and the same method refitted on shuffled labels at one layer."""

    coef: Float[Tensor, "layer d_model"]
    intercept: Float[Tensor, "layer"]
    shuffled: Callable[[int], Coefficients]
    """From a layer's index to one probe for each shuffle."""


def read(source: Source, rows: Sequence[int], prompts: Sequence[Prompt], sites: Sequence[str]) -> Iterator[Batch]:
    """Batches of the source, checked.

    Raises:
        UserError: an activation is NaN or infinite; names the site and the prompt.
        ValueError: the source gives other rows than it was asked for, or another number of layers.
    """
    waiting = set(rows)
    for index, x in source(rows):
        if x.shape[1] != len(sites):
            raise ValueError(f"the source gives {x.shape[1]} layers for {len(sites)} sites")
        given = set(index.tolist())
        if not given <= waiting or len(given) != len(x):
            raise ValueError("the source gives prompts that were not asked for, or one twice")
        waiting -= given
        check_finite(x, index.tolist(), prompts, sites)
        yield index, x
    if waiting:
        raise ValueError(f"the source left out {len(waiting)} of {len(rows)} prompts, the first being {min(waiting)}")


def check_finite(
    x: Float[Tensor, "row layer d_model"], index: Sequence[int], prompts: Sequence[Prompt], sites: Sequence[str]
) -> None:
    """Raise UserError that names the site and the prompt of the first NaN or infinite activation."""
    if bool(x.sum().isfinite()) or bool(x.isfinite().all()):  # a finite sum has finite terms, and costs no mask
        return
    row, layer = (~x.isfinite()).any(-1).nonzero()[0].tolist()
    where = prompts[index[row]].where or f"prompt {index[row]}"
    raise UserError(
        f"{where}: NaN or infinite activations at {sites[layer]}; check the checkpoint, or run it with --dtype float32"
    )


def gather(
    batches: Iterator[Batch], rows: Sequence[int], layer: int | None = None
) -> Float[Tensor, "row layer d_model"]:
    """Rows of a stream in the order of `rows`, in float32 at least; of one layer only where it is named."""
    place = {index: position for position, index in enumerate(rows)}
    out: Tensor | None = None
    for index, x in batches:
        x = x if layer is None else x[:, layer : layer + 1]
        if out is None:
            dtype = torch.promote_types(x.dtype, torch.float32)
            out = torch.empty(len(rows), *x.shape[1:], dtype=dtype, device=x.device)
        out[[place[i] for i in index.tolist()]] = x.to(out.dtype)
    if out is None:
        raise ValueError("no rows to gather")
    return out


def fit(
    batches: Callable[[], Iterator[Batch]],
    rows: Int[np.ndarray, "fit"],
    labels: Bool[np.ndarray, "fit"],
    shuffles: Bool[np.ndarray, "shuffle fit"],
    config: TrainConfig,
) -> Fitted:
    """Fit the configured method to the rows of a stream; `labels` and `shuffles` are in the order of `rows`."""
    if config.method == "logistic":
        return _fit_logistic(gather(batches(), rows.tolist()), labels, shuffles, config)
    return _fit_streamed(batches(), rows, labels, shuffles, config)


def normalise(
    x: Float[Tensor, "prompt layer d_model"],
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer"]]:
    """Centre each layer in place and scale it by one number to unit root mean square; returns mean and 1 / scale.

    One number a layer, not one a feature: C then means the same at every layer, and the geometry is left as it is. A
    layer that does not vary (the same last token everywhere, at the first layers) gets 1 / scale = 0.
    """
    mean = torch.stack([x[:, i].double().mean(0) for i in range(x.shape[1])])
    inverse = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for i in range(x.shape[1]):
        centred = x[:, i].double() - mean[i]
        spread = centred.square().mean().sqrt()
        if spread > CONSTANT * mean[i].square().mean().sqrt():
            inverse[i] = 1 / spread
        x[:, i] = (centred * inverse[i]).to(x.dtype)
    return mean, inverse


def _fit_logistic(
    x: Float[Tensor, "prompt layer d_model"],
    labels: Bool[np.ndarray, "prompt"],
    shuffles: Bool[np.ndarray, "shuffle prompt"],
    config: TrainConfig,
) -> Fitted:
    mean, inverse = normalise(x)

    def solve(features: Tensor, y: np.ndarray, layers: slice) -> Coefficients:
        probe = LogisticProbe(config.C, device=config.device).fit(features, torch.from_numpy(y))
        coef = probe.coef_.cpu() * inverse[layers, None].cpu()
        return coef, probe.intercept_.cpu() - (coef * mean[layers].cpu()).sum(-1)

    def shuffled(layer: int) -> Coefficients:
        copies = x[:, layer : layer + 1].expand(-1, len(shuffles), -1)
        return solve(copies, shuffles.T, slice(layer, layer + 1))

    return Fitted(*solve(x, labels, slice(None)), shuffled)


def _fit_streamed(
    batches: Iterator[Batch],
    rows: Int[np.ndarray, "prompt"],
    labels: Bool[np.ndarray, "prompt"],
    shuffles: Bool[np.ndarray, "shuffle prompt"],
    config: TrainConfig,
) -> Fitted:
    moments, nulls = Moments(scatter=config.method == "lda"), _ShuffledMeans(torch.from_numpy(shuffles))
    place = {index: position for position, index in enumerate(rows.tolist())}
    for index, x in batches:
        x = x if config.device is None else x.to(config.device)
        positions = [place[i] for i in index.tolist()]
        moments.update(x, torch.from_numpy(labels[positions]))
        nulls.update(x, positions)
    if config.method == "lda":
        return _lda(moments, nulls, config.shrinkage)
    probe = MeanDifferenceProbe().fit_moments(moments)

    def shuffled(layer: int) -> Coefficients:
        negative, positive = nulls.means(layer)
        coef = positive - negative
        return coef, -((positive + negative) / 2 * coef).sum(-1)

    return Fitted(probe.coef_.cpu(), probe.intercept_.cpu(), shuffled)


class _ShuffledMeans:
    """Class means under many labellings at once: one matrix product a batch, about the first batch's mean."""

    def __init__(self, shuffles: Bool[Tensor, "shuffle prompt"]) -> None:
        self.shuffles = shuffles.double()
        self.sums: Tensor | None = None

    def update(self, x: Float[Tensor, "row layer d_model"], positions: Sequence[int]) -> None:
        """Add a batch whose rows have these positions among the labels."""
        flat = x.double().flatten(1)
        if self.sums is None:
            self.pivot, self.shape = flat.mean(0), x.shape[1:]
            self.sums = flat.new_zeros(2, len(self.shuffles), flat.shape[1])
        positive = self.shuffles[:, positions].to(x.device)
        flat = flat - self.pivot
        self.sums += torch.stack([(1 - positive) @ flat, positive @ flat])

    def means(self, layer: int) -> Float[Tensor, "2 shuffle d_model"]:
        """Mean of the negatives and of the positives of each labelling at one layer."""
        assert self.sums is not None
        count = torch.stack([(1 - self.shuffles).sum(1), self.shuffles.sum(1)])
        means = self.sums.cpu() / count[..., None] + self.pivot.cpu()
        return means.unflatten(-1, self.shape)[:, :, layer]


def _lda(moments: Moments, nulls: _ShuffledMeans, shrinkage: float | Literal["auto"]) -> Fitted:
    """LDA on the true labels, and on shuffled ones from their means alone: the total covariance knows no labels."""
    probe = LDAProbe(shrinkage).fit_moments(moments)
    share = moments.count[0] * moments.count[1] / sum(moments.count) ** 2

    def shuffled(layer: int) -> Coefficients:
        gap = moments.mean[1, layer] - moments.mean[0, layer]
        total = moments.within[layer] + share * torch.outer(gap, gap)
        negative, positive = (means.to(total.device) for means in nulls.means(layer))
        gaps, one = positive - negative, slice(layer, layer + 1)
        within = (total - share * torch.outer(g, g) for g in gaps)
        fits = [LDAProbe.solve(w[None], g[None], probe.shrinkage_[one]) for w, g in zip(within, gaps, strict=True)]
        coef = torch.cat(fits)
        return coef.cpu(), -((positive + negative) / 2 * coef).sum(-1).cpu()

    return Fitted(probe.coef_.cpu(), probe.intercept_.cpu(), shuffled)
