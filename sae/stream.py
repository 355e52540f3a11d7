"""Activations for training, in shuffled batches, from memory, from the store, or from a model as it runs.

1. A source is cut into blocks, each small enough to be held in memory; a block can be had again at any time.
2. In each pass the blocks come in a new random order, and the rows of a block are shuffled together with what the block
   before left over of its last batch.
3. Where the stream stands is three numbers and those few rows, so that a run goes on exactly where it was killed.
4. Under `torchrun`, rank r takes the blocks whose place in the order is r modulo the number of ranks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import ActivationStore, ExtractionSpec, HookedModel, Prompt, stream_activations
from triggerlens import UserError

BLOCK_ROWS = 65536
"""Rows of a block, about: 192 MiB at a width of 768."""
_SAMPLED_PROMPTS = 256


@runtime_checkable
class ActivationSource(Protocol):
    """Activations in blocks that can be read in any order."""

    widths: tuple[int, ...]
    """Width of the activations; of a crosscoder's source, the width of each model's."""

    def __len__(self) -> int:
        """Number of blocks."""

    def block(self, number: int) -> Float[Tensor, "row d_in"]:
        """A block's rows, the models' activations side by side."""


Blocks = Generator[Float[Tensor, "row d_in"], None, None]


@runtime_checkable
class OrderedSource(ActivationSource, Protocol):
    """A source that gains by knowing beforehand in which order its blocks are read."""

    def in_order(self, order: Iterator[int]) -> Blocks:
        """Block after block, in an order that may have no end."""


class TensorSource:
    """Activations in memory."""

    def __init__(self, rows: Float[Tensor, "row d_in"], block_rows: int = BLOCK_ROWS):
        self._blocks = rows.split(block_rows)
        self.widths: tuple[int, ...] = (rows.shape[1],)

    def __len__(self) -> int:
        return len(self._blocks)

    def block(self, number: int) -> Float[Tensor, "row d_in"]:
        """A run of rows, float32."""
        return self._blocks[number].float()


class StoreSource:
    """One site of an activation store; each block is a run of prompts."""

    def __init__(
        self, store: ActivationStore, site: str, *, block_rows: int = BLOCK_ROWS, skip_first: int = 1, least: int = 1
    ):
        """Open a site; of a store of every token, leave out the first ones of each prompt, as `ModelSource` does.

        `least` is the number of blocks that there are at least, where there are so many prompts: each process needs one.

        Raises:
            UserError: the store does not hold the site.
        """
        if site not in store.sites:
            raise UserError(f"{store.folder}: holds {', '.join(store.sites)}, not {site}")
        self.store, self._site = store, store.sites.index(site)
        _, first = next(iter(store.batches([0])))
        self.widths: tuple[int, ...] = (first.shape[2],)
        self._skip = skip_first if store.manifest.config["position"] == "every" else 0
        self._prompts = _a_block(block_rows * len(store) / max(1, store.rows), len(store), least)

    def __len__(self) -> int:
        return math.ceil(len(self.store) / self._prompts)

    def block(self, number: int) -> Float[Tensor, "row d_in"]:
        """The rows of a run of prompts, read from the store."""
        chosen = _run_of(number, self._prompts, len(self.store))
        return torch.cat(
            [
                rows[_place_in_prompt(prompts.bincount()) >= self._skip, self._site]
                for prompts, rows in self.store.batches(chosen)
            ]
        )


class ModelSource:
    """Activations of every token of some prompts, computed from the model when they are asked for; none is kept."""

    def __init__(
        self,
        model: HookedModel,
        prompts: Sequence[Prompt | str],
        site: str,
        *,
        block_rows: int = BLOCK_ROWS,
        skip_first: int = 1,
        token_budget: int | None = None,
        least: int = 1,
    ):
        """Plan the blocks.

        Args:
            model: which model.
            prompts: texts or prompts, read when needed, so it may be a view of a file. A block is a run of them:
                let their order be a random one.
            site: where to read.
            block_rows: tokens of a block, about.
            skip_first: tokens at the start of each prompt that are left out. The first one is an attention sink in
                many models: its norm is many times that of others, and it says nothing about the text.
            token_budget: tokens a forward pass.
            least: blocks that there are at least, where there are so many prompts.

        Raises:
            UserError: no prompt, or the model has no such site.
        """
        if not len(prompts):
            raise UserError("there is no text to train on")
        model.check_sites([site])
        self.model, self.prompts, self.site = model, prompts, site
        self.skip_first, self.token_budget = skip_first, token_budget
        self.widths: tuple[int, ...] = (model.info.d_model,)
        sample = [prompts[index] for index in range(0, len(prompts), math.ceil(len(prompts) / _SAMPLED_PROMPTS))]
        mean = sum(len(prompt.ids) for prompt in model.tokenize(sample)) / len(sample)
        self._prompts = _a_block(block_rows / mean, len(prompts), least)

    def __len__(self) -> int:
        return math.ceil(len(self.prompts) / self._prompts)

    def block(self, number: int) -> Float[Tensor, "row d_in"]:
        """The rows of a run of prompts, computed from the model anew."""
        return read_rows(self.model, self.prompts_of(number), self.site, self.skip_first, self.token_budget)

    def prompts_of(self, number: int) -> list[Prompt | str]:
        """A block's prompts."""
        return [self.prompts[index] for index in _run_of(number, self._prompts, len(self.prompts))]


def read_rows(
    model: HookedModel, prompts: Sequence[Prompt | str], site: str, skip_first: int, token_budget: int | None
) -> Float[Tensor, "row d_model"]:
    """The activations of every token but the first ones of each prompt, in float32."""
    parts = []
    for batch in stream_activations(
        model, prompts, ExtractionSpec((site,), "every"), token_budget=token_budget, whole_windows=True
    ):
        parts.append(batch.values[_place_in_prompt(batch.counts) >= skip_first, 0].float())
    return torch.cat(parts)


def _a_block(prompts: float, of: int, least: int) -> int:
    """Prompts in a block."""
    return max(1, min(int(prompts), of // least))


class SideBySide:
    """The same tokens seen by several models: what a crosscoder reads."""

    def __init__(self, sources: Sequence[ActivationSource]):
        """Put sources of the same prompts side by side.

        Raises:
            UserError: they have different numbers of blocks.
        """
        if len({len(source) for source in sources}) != 1:
            raise UserError("a crosscoder's models must read the same prompts")
        self.sources = sources
        self.widths = tuple(width for source in sources for width in source.widths)

    def __len__(self) -> int:
        return len(self.sources[0])

    def block(self, number: int) -> Float[Tensor, "row d_in"]:
        """The models' rows of the same tokens, side by side."""
        return beside([source.block(number) for source in self.sources])


def beside(blocks: Sequence[Tensor]) -> Float[Tensor, "row d_in"]:
    """One block of several models.

    Raises:
        UserError: they have different numbers of rows.
    """
    if len({len(rows) for rows in blocks}) != 1:
        raise UserError("a crosscoder's models must split the prompts into the same tokens")
    return torch.cat(list(blocks), dim=1)


@dataclass
class Position:
    """Where a stream stands."""

    passes: int = 0
    """Passes over the source that are over."""
    place: int = 0
    """Place in this pass's order of the block that is being read."""
    used: int = 0
    """Rows of it that were given out."""
    carried: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """Rows left over by the block before it."""


class ShuffledBatches:
    """An endless stream of batches."""

    def __init__(
        self,
        source: ActivationSource,
        batch: int,
        seed: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        position: Position | None = None,
    ):
        """Start, or go on at a position.

        Raises:
            UserError: fewer blocks than ranks.
        """
        if len(source) < ranks:
            raise UserError(f"{len(source)} blocks of activations are too few for {ranks} processes")
        self.source, self.batch, self.seed, self.rank, self.ranks = source, batch, seed, rank, ranks
        self.position = position or Position(carried=torch.empty(0, sum(source.widths)))
        self._numbers, order = itertools.tee(self._order())
        self._blocks: Blocks = (
            source.in_order(order) if isinstance(source, OrderedSource) else (source.block(number) for number in order)
        )
        self._rows = self._load()

    def close(self) -> None:
        """No more batches are wanted: who computes blocks beforehand stops."""
        self._blocks.close()

    def __next__(self) -> Float[Tensor, "batch d_in"]:
        """The next batch.

        Raises:
            UserError: a block holds NaN or infinity, or has another width than the source says.
        """
        tried = 0
        while len(self._rows) - self.position.used < self.batch:
            self._advance()
            tried += 1
            if tried > len(self.source) and not len(self._rows):
                raise UserError("no activations: every prompt is as short as the tokens that are left out")
        start = self.position.used
        self.position.used += self.batch
        return self._rows[start : start + self.batch]

    def _advance(self) -> None:
        position = self.position
        position.carried, position.used = self._rows[position.used :].clone(), 0
        position.place += self.ranks
        if position.place + self.rank >= len(self.source):
            position.passes, position.place = position.passes + 1, 0
        self._rows = self._load()

    def _load(self) -> Float[Tensor, "row d_in"]:
        position, number = self.position, next(self._numbers)
        rows = torch.cat([position.carried, checked(next(self._blocks), self.source, number)])
        order = self._generator(position.passes, 1 + number).permutation(len(rows))
        return rows[torch.from_numpy(order)]

    def _order(self) -> Iterator[int]:
        """This process's blocks from its position on, without end."""
        passes, place = self.position.passes, self.position.place
        while True:
            order = self._generator(passes, 0).permutation(len(self.source))
            yield from order[place + self.rank :: self.ranks].tolist()
            passes, place = passes + 1, 0

    def _generator(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *what])


def _run_of(number: int, size: int, total: int) -> range:
    """The places of run `number` of `size` consecutive prompts."""
    return range(number * size, min(total, (number + 1) * size))


def _place_in_prompt(counts: Int[Tensor, "prompt"]) -> Int[Tensor, "row"]:
    """The place of each row among its prompt's, from 0; `counts` may hold zeros."""
    return torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)


def checked(rows: Float[Tensor, "row d_in"], source: ActivationSource, number: int) -> Float[Tensor, "row d_in"]:
    """A block, if it can be trained on.

    Raises:
        UserError: it has another width than the source says, or holds NaN or infinity.
    """
    if rows.shape[1] != sum(source.widths):
        raise UserError(f"activations are {rows.shape[1]} wide, not {sum(source.widths)}")
    if not rows.isfinite().all():
        row, column = (~rows.isfinite()).nonzero()[0].tolist()
        raise UserError(
            f"NaN or infinite activation in row {row} (dimension {column}) of block {number}; extract the activations again"
        )
    return rows


def scale_of(rows: Float[Tensor, "row d_in"], widths: Sequence[int]) -> Float[Tensor, "d_in"]:
    """What each dimension is multiplied with so that each model's mean norm is the root of its width.

    As `expected_average_only_in` of SAELens: one number a model, so that hyperparameters carry over between models.

    Raises:
        UserError: all activations are zero.
    """
    scales = []
    for part in rows.split(list(widths), dim=1):
        norm = float(part.norm(dim=1).mean())
        if norm == 0:
            raise UserError("all activations are zero; check the model and the site")
        scales.append(torch.full((part.shape[1],), math.sqrt(part.shape[1]) / norm))
    return torch.cat(scales)
