"""The tokens that a pooling is fitted to: some layers at a time, normalised, in memory or, where they are many, in a scratch file.

1. Layers are read in groups whose tokens fit `MEMORY`; where one layer alone does not, its tokens are written to a scratch file and
   mapped, and every pass goes over them in pieces of whole texts.
2. A layer is centred on the mean of its tokens and scaled by one number, to unit median square: one that minds neither attention sinks
   nor other tokens far from all others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from triggerlens import FAR

MEMORY = 512 * 2**20
"""Bytes of tokens that are held at once."""
PIECE = 64 * 2**20
"""Bytes of tokens in one piece of a pass, unless a single text has more."""
CONSTANT = 1e-6
"""A layer whose spread is below this share of its size holds rounding and nothing else."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole texts that lie next to each other."""

    x: Float[Tensor, "layer token d_model"]
    text: Int[Tensor, "token"]
    """Which of the piece's texts each token belongs to, from 0."""
    texts: slice
    """Which of all texts they are."""
    lengths: Int[Tensor, "text"]


@dataclass
class TokenRows:
    """Tokens of texts at some layers, laid end to end."""

    x: Float[Tensor, "layer token d_model"]
    lengths: Int[Tensor, "text"]
    scratch: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)
    """Holds the file that `x` is mapped from; goes with the rows."""

    def pieces(self) -> Iterator[Piece]:
        """One pass over all tokens."""
        row_bytes = self.x.shape[0] * self.x.shape[2] * self.x.element_size()
        start_text = start = 0
        ends = self.lengths.cumsum(0).tolist()
        for number, end in enumerate(ends):
            last = number + 1 == len(ends)
            if last or (ends[number + 1] - start) * row_bytes > PIECE:
                texts = slice(start_text, number + 1)
                lengths = self.lengths[texts]
                index = torch.arange(len(lengths)).repeat_interleave(lengths)
                yield Piece(self.x[:, start:end], index, texts, lengths)
                start_text, start = number + 1, end

    def means(self) -> Float[Tensor, "text layer d_model"]:
        """The mean over tokens of every text, in float64."""
        out = []
        for piece in self.pieces():
            total = torch.zeros(len(piece.lengths), *self.x[:, 0].shape, dtype=torch.float64)
            total.index_add_(0, piece.text, piece.x.transpose(0, 1).double())
            out.append(total / piece.lengths[:, None, None])
        return torch.cat(out)

    def normalise(self) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer"]]:
        """Centre and scale in place; returns mean and 1 / scale, which is 0 for a layer that does not vary."""
        norms = torch.cat([piece.x.norm(dim=2) for piece in self.pieces()], dim=1)
        near = norms <= FAR * norms.median(dim=1, keepdim=True).values
        mean = torch.zeros(self.x.shape[0], self.x.shape[2], dtype=torch.float64)
        start = 0
        for piece in self.pieces():
            stop = start + piece.x.shape[1]
            mean += (piece.x * near[:, start:stop, None]).sum(1, dtype=torch.float64)
            start = stop
        mean /= near.sum(1)[:, None]
        centred = torch.cat([(piece.x - mean[:, None].to(piece.x.dtype)).norm(dim=2) for piece in self.pieces()], dim=1)
        spread = centred.median(dim=1).values.double() / self.x.shape[2] ** 0.5
        varies = spread > CONSTANT * mean.square().mean(1).sqrt()
        inverse = torch.where(varies, 1 / torch.where(varies, spread, 1.0), 0.0)
        for piece in self.pieces():
            piece.x.sub_(mean[:, None].to(piece.x.dtype)).mul_(inverse[:, None, None].to(piece.x.dtype))
        return mean, inverse


def collect(stream: Iterable[tuple[int, Tensor]], lengths: Int[Tensor, "text"], layers: int) -> TokenRows:
    """The tokens of texts that come in any order.

    Args:
        stream: number of a text and its tokens [token layer d_model].
        lengths: tokens of each text.
        layers: in each token.
    """
    starts = (lengths.cumsum(0) - lengths).tolist()
    rows: TokenRows | None = None
    for number, x in stream:
        if rows is None:
            rows = _empty(
                (layers, int(lengths.sum()), x.shape[-1]), torch.promote_types(x.dtype, torch.float32), lengths
            )
        rows.x[:, starts[number] : starts[number] + len(x)] = x.transpose(0, 1)
    if rows is None:
        raise ValueError("no text to fit to")
    return rows


def layers_at_once(tokens: int, layers: int, width: int) -> int:
    """How many layers' tokens fit `MEMORY`, in float32; at least 1."""
    return min(layers, max(1, MEMORY // max(1, 4 * tokens * width)))


def _empty(shape: tuple[int, int, int], dtype: torch.dtype, lengths: Tensor) -> TokenRows:
    if dtype.itemsize * shape[0] * shape[1] * shape[2] <= MEMORY:
        return TokenRows(torch.empty(shape, dtype=dtype), lengths)
    scratch = tempfile.TemporaryDirectory(prefix="triggerlens-tokens-")
    kind = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    mapped = np.memmap(Path(scratch.name) / "tokens", dtype=kind, mode="w+", shape=shape)
    return TokenRows(torch.from_numpy(mapped), lengths, scratch)
