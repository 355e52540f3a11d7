"""Sparse codes: a batch's few non-zero latents, and the two products with weights that a step needs, with hand-written gradients.

Of the six matrix products of a dense training step, five have a factor that is nearly all zeros. With k of d_sae latents
alive in each sample:

1. Encode: pre-activations densely (one product, in bfloat16 under autocast), the largest kept, the rest forgotten.
2. Decode: a weighted sum of k decoder rows for each sample.
3. Backward: the gradient of a kept latent is one dot product; a weight row's gradient is the weighted sum of the samples
   in which its latent is alive, for which the codes are sorted by latent once.

The idea of sparse kernels for both directions: Gao et al., 2024 (arXiv:2406.04093), appendix D.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

_GROUP = 8


@dataclass(frozen=True)
class Layout:
    """Which latents are alive in which row: a row is a sample, or a sample's part in one group of latents."""

    latents: Int[Tensor, "alive"]
    starts: Int[Tensor, "row"]
    """Where each row's latents begin."""
    d_sae: int

    @cached_property
    def rows(self) -> Int[Tensor, "alive"]:
        """The row of each entry."""
        ends = torch.cat([self.starts[1:], self.starts.new_tensor([len(self.latents)])])
        return torch.arange(len(self.starts), device=self.starts.device).repeat_interleave(ends - self.starts)

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, "alive"], Int[Tensor, "alive"], Int[Tensor, "d_sae"]]:
        """The entries sorted by latent: their places in this layout, their rows, and where each latent's begin."""
        ordered, order = self.latents.sort(stable=True)
        latents = torch.arange(self.d_sae, device=self.latents.device)
        return order, self.rows[order], torch.searchsorted(ordered, latents)


@dataclass(frozen=True)
class Codes:
    """The non-zero latents of a batch."""

    values: Float[Tensor, "alive"]
    layout: Layout

    def in_groups(self, ends: Int[Tensor, "group"]) -> Codes:
        """The same entries with a row for each sample and group of latents; group g ends before latent ends[g].

        The entries of a sample must stand in ascending order of latents.
        """
        row = self.layout.rows * len(ends) + torch.searchsorted(ends, self.layout.latents, right=True)
        rows = torch.arange(len(self.layout.starts) * len(ends), device=row.device)
        return Codes(self.values, Layout(self.layout.latents, torch.searchsorted(row, rows), self.layout.d_sae))

    def fired(self) -> Bool[Tensor, "d_sae"]:
        """Latents that are above 0 somewhere."""
        fired = torch.zeros(self.layout.d_sae, dtype=torch.bool, device=self.values.device)
        fired[self.layout.latents[self.values > 0]] = True
        return fired


def weighted_rows(
    weights: Float[Tensor, "alive"], rows: Float[Tensor, "n d"], chosen: Int[Tensor, "alive"], starts: Int[Tensor, "m"]
) -> Float[Tensor, "m d"]:
    """Sums of chosen rows, each times its weight; sum i takes the entries from starts[i] on."""
    return functional.embedding_bag(chosen, rows, starts, mode="sum", per_sample_weights=weights.to(rows.dtype))


class _WeightRows(torch.autograd.Function):
    """Passes its first input on; its gradient with respect to the rows that were summed is the transposed sum."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, rows: Tensor, weights: Tensor, layout: Layout) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.layout = layout
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        (weights,) = ctx.saved_tensors
        order, rows, starts = ctx.layout.by_latent
        return gradient, weighted_rows(weights[order], gradient, rows, starts), None, None


class _Encode(torch.autograd.Function):
    """Passes values on; its backward is that of the pre-activations that they are."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, x: Tensor, encoder_rows: Tensor, b_enc: Tensor, b_dec: Tensor, layout: Layout
    ) -> Tensor:
        ctx.save_for_backward(x, encoder_rows, b_dec)
        ctx.layout = layout
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, encoder_rows, b_dec = ctx.saved_tensors
        layout: Layout = ctx.layout
        order, rows, starts = layout.by_latent
        by_weight = weighted_rows(gradient[order], x - b_dec, rows, starts)
        by_b_enc = gradient.new_zeros(layout.d_sae).index_add_(0, layout.latents, gradient)
        return None, None, by_weight, by_b_enc, -(by_b_enc @ encoder_rows), None


def decode(codes: Codes, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "row d_in"]:
    """For each row of the codes the weighted sum of decoder rows, without the bias."""
    layout = codes.layout
    # torch's own gradient with respect to the values is good, that with respect to the rows is slow.
    total = weighted_rows(codes.values, W_dec.detach(), layout.latents, layout.starts)
    return _WeightRows.apply(total, W_dec, codes.values.detach(), layout)


def encode(
    values: Float[Tensor, "alive"],
    layout: Layout,
    x: Float[Tensor, "batch d_in"],
    encoder_rows: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, "d_sae"],
    b_dec: Float[Tensor, "d_in"],
) -> Codes:
    """Chosen pre-activations as codes whose gradient reaches the encoder's parameters (not x)."""
    return Codes(_Encode.apply(values, x, encoder_rows, b_enc, b_dec, layout), layout)


def largest_of_each(pre: Float[Tensor, "batch d_sae"], k: int) -> tuple[Float[Tensor, "alive"], Layout]:
    """The k largest of each row."""
    values, latents = _largest(pre, k)
    starts = torch.arange(0, latents.numel(), k, device=pre.device)
    return values.flatten(), Layout(latents.flatten(), starts, pre.shape[1])


def largest_of_all(pre: Float[Tensor, "batch d_sae"], k: int) -> tuple[Float[Tensor, "alive"], Layout]:
    """The batch · k largest of all rows together, as far as they are positive; latents ascend within a row."""
    values, places = _largest(pre.reshape(1, -1), min(k * len(pre), pre.numel()))
    places = places[values > 0].sort().values
    starts = torch.searchsorted(places // pre.shape[1], torch.arange(len(pre), device=pre.device))
    return pre.flatten()[places], Layout(places % pre.shape[1], starts, pre.shape[1])


def _largest(x: Float[Tensor, "row n"], k: int) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of each row, and their places; exact, and faster on a CPU than `topk` where k is far below n.

    The k largest lie in the k groups with the largest maxima, so only those groups are searched.
    """
    groups = x.shape[1] // _GROUP
    if x.shape[1] % _GROUP or groups < 4 * k or x.is_cuda:
        return x.topk(k, dim=1, sorted=False)
    grouped = x.view(len(x), _GROUP, groups)
    chosen = _largest(grouped.amax(1), k)[1]
    candidates = grouped.gather(2, chosen[:, None].expand(-1, _GROUP, -1)).flatten(1)
    values, places = candidates.topk(k, dim=1, sorted=False)
    return values, places // k * groups + chosen.gather(1, places % k)
