"""Texts that begin alike: what they share is read once, and kept as keys and values; then only what follows is run.

1. A prefix is read alone, and its cache kept. For a batch of rows the cache is spread without a copy, where the model's layers allow it.
2. Rows of one length follow it, so that nothing is padded and nothing masked. They may go on, token by token.
3. Logits are computed where they are asked for, at the last positions alone.
4. The first row after each prefix is also read whole, without a cache. Where the two differ by more than rounding (a model whose
   memory does not go by position), or rotary embeddings change with a text's length, everything is read whole from then on.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked.batching import logits_agree
from hooked.generation import accepted_by, only_last
from hooked.model import HookedModel
from hooked.prompts.tokens import pad_right
from hooked.rescaling import forget_lengths, rescaling_of
from triggerlens import UserError

TOKENS_AT_ONCE = 8192
"""Over all rows of a batch: a size that suits the caches of CPUs and the memory of GPUs."""
_LOGITS = 2**26
"""The most logits of a batch, in float32: 256 MB."""
_KEPT = 512
"""How many prefixes' caches are kept at once."""
_CACHED = 2**30
"""The most bytes of keys and values of texts that are continued together, since each step copies them; and of all prefixes that are kept."""


@dataclass
class PrefixReader:
    """Reads what follows prefixes, for one model.

    >>> reader = PrefixReader(model)
    >>> logits = reader.read(prefix, rows)  # [row 1 vocabulary]: after the last token of each row
    """

    model: HookedModel
    """Whose logits are read."""
    token_budget: int = TOKENS_AT_ONCE
    """Tokens run at once, without those of the prefix."""
    fast: bool = True
    """Whether caches are used; false from the first time that one gave other logits than the whole text."""
    checked: int = 0
    """Rows that were also read whole."""
    largest_difference: float = 0.0
    """Of a token's probability between the two ways, over those rows; 0 to 1."""
    tokens_run: int = 0
    """Tokens that went through the model, for what a scan costs."""
    _kept: OrderedDict[tuple[int, ...], Any] = field(default_factory=OrderedDict, repr=False)
    _lengths: set[tuple[tuple[int, ...], int]] = field(default_factory=set, repr=False)

    def rows_at_once(self, length: int, keep: int = 1) -> int:
        """How many rows make a batch, at least 1.

        Args:
            length: tokens of each row, without the prefix.
            keep: after how many of its last tokens logits are wanted.
        """
        return max(1, min(self.token_budget // max(1, length), _LOGITS // (keep * self.model.vocabulary)))

    def rows_kept(self, length: int) -> int:
        """How many texts of `length` tokens may be continued together, at least 1: their keys and values take a gigabyte at most."""
        return max(1, min(TOKENS_AT_ONCE, _CACHED // (max(1, length) * self._bytes_of_a_token)))

    @property
    def _bytes_of_a_token(self) -> int:
        """Of its keys and values in all layers."""
        info = self.model.info
        return 2 * info.n_layers * info.n_kv_heads * info.d_head * self.model.dtype.itemsize

    @torch.no_grad()
    def read(
        self, prefix: Sequence[int], rows: Int[Tensor, "row token"], keep: int = 1
    ) -> Float[Tensor, "row keep vocabulary"]:
        """Logits of one batch, in float32, after the last `keep` tokens of each row.

        Args:
            prefix: what all rows begin with; may be empty.
            rows: what follows, at least one token.
            keep: 1 to the length of the rows.

        Raises:
            UserError: the text exceeds the context.
        """
        return self.open(prefix, len(rows)).read(rows, keep)

    def open(self, prefix: Sequence[int], rows: int) -> Following:
        """A batch of `rows` rows that will follow a prefix, and may be continued after that."""
        return Following(self, tuple(prefix), rows)

    def cache_of(self, prefix: tuple[int, ...]) -> Any:
        """Keys and values of a prefix, as `transformers` keeps them for one row."""
        if prefix not in self._kept:
            self._kept[prefix] = self.forward(torch.tensor([prefix]), None, 0, 1)[1] if prefix else None
            while self._too_many():
                self._kept.popitem(last=False)
        self._kept.move_to_end(prefix)
        return self._kept[prefix]

    def _too_many(self) -> bool:
        """Whether a prefix must go that was asked for longest ago; the newest one stays, however long it is."""
        taken = sum(map(len, self._kept)) * self._bytes_of_a_token
        return len(self._kept) > 1 and (len(self._kept) > _KEPT or taken > _CACHED)

    @torch.no_grad()
    def forward(self, tokens: Int[Tensor, "row token"], cache: Any, before: int, keep: int) -> tuple[Tensor, Any]:
        """One forward pass over tokens that follow others.

        Args:
            tokens: ids of each row.
            cache: keys and values of what stands before them; None where nothing does.
            before: how many tokens stand before them.
            keep: after how many of the last tokens logits are wanted.

        Returns:
            Logits [row keep vocabulary] in float32, and the cache with these tokens in it.

        Raises:
            UserError: the text exceeds the context.
        """
        tokens = tokens.to(self.model.device)
        return self._run(tokens, {"input_ids": tokens}, cache, before, keep)

    def _run(self, tokens: Tensor, given: dict[str, Tensor], cache: Any, before: int, keep: int) -> tuple[Tensor, Any]:
        model, hf_model = self.model, self.model.hf_model
        if before + tokens.shape[1] > model.info.context:
            raise UserError(
                f"a text of {before + tokens.shape[1]} tokens exceeds the context of {model.info.context}; give shorter prompts"
            )
        places = torch.arange(before, before + tokens.shape[1], device=model.device)[None].expand(len(tokens), -1)
        options = only_last(hf_model, tokens, keep)
        options |= {"position_ids": places} if "position_ids" in accepted_by(hf_model) else {}
        cached = {"past_key_values": cache, "use_cache": True} if self.fast else {"use_cache": False}
        with model.alone():
            forget_lengths(hf_model, hf_model.config)
            output = hf_model(**given, **cached, **options)
        self.tokens_run += tokens.numel()
        return output.logits[:, -keep:].float(), getattr(output, "past_key_values", None)

    def read_embedded(
        self, prefix: Sequence[int], rows: Int[Tensor, "row token"], embedded: Float[Tensor, "row token width"]
    ) -> Float[Tensor, "row vocabulary"]:
        """Logits after rows that are given as embeddings, through which a gradient may go, in float32.

        Args:
            prefix: what all rows begin with; may be empty.
            rows: token ids of what follows, all of one length.
            embedded: their embeddings.

        Raises:
            UserError: the text exceeds the context.
        """
        self.read(prefix, rows[:1])  # finds out whether caches may be used, by reading a row whole
        rows = rows.to(self.model.device)
        if self.may_keep(len(prefix) + rows.shape[1]):
            cache = spread_cache(self.cache_of(tuple(prefix)), len(rows))
            return self._run(rows, {"inputs_embeds": embedded}, cache, len(prefix), 1)[0][:, 0]
        begin = torch.tensor(prefix, dtype=torch.long, device=rows.device)[None].expand(len(rows), -1)
        table = self.model.hf_model.get_input_embeddings()
        whole = torch.cat([table(begin).detach(), embedded], dim=1)
        return self._run(torch.cat([begin, rows], dim=1), {"inputs_embeds": whole}, None, 0, 1)[0][:, 0]

    def whole(self, texts: Int[Tensor, "row token"], keep: int) -> Float[Tensor, "row keep vocabulary"]:
        """Logits after the last `keep` tokens of whole texts, in float32, without any cache."""
        run = self.model.run(texts)
        assert run.logits is not None  # no last layer was given
        self.tokens_run += texts.numel()
        return run.logits[:, -keep:].float()

    def check(self, prefix: tuple[int, ...], row: Tensor, seen: Float[Tensor, "keep vocabulary"]) -> bool:
        """Whether caches may still be used: a row is read whole too, and compared, once for each prefix and length.

        Args:
            prefix: ids that the cache holds.
            row: ids of one row that followed it.
            seen: what the cache gave after the last tokens of that row.
        """
        if (prefix, len(row)) in self._lengths:
            return True
        self._lengths.add((prefix, len(row)))
        text = torch.cat([torch.tensor(prefix, dtype=torch.long), row.cpu()])[None]
        expected = self.whole(text, len(seen))[0]
        self.checked += 1
        if not logits_agree(seen, expected, self.model.dtype):
            self.fast = False
            self._kept.clear()
            return False
        difference = float((seen.softmax(-1) - expected.softmax(-1)).abs().max())
        self.largest_difference = max(self.largest_difference, difference)
        return True

    def may_keep(self, length: int) -> bool:
        """Whether a text of this length may be read in pieces."""
        rescaling = rescaling_of(self.model.hf_model.config)
        return self.fast and (rescaling is None or length <= rescaling.past)


@dataclass
class Following:
    """A batch of rows after one prefix, as far as they have been read."""

    reader: PrefixReader
    """Whose cache of the prefix is used."""
    prefix: tuple[int, ...]
    """Token ids that every row begins with."""
    rows: int
    """Rows in the batch."""
    tokens: Tensor | None = None
    """What was read after the prefix."""
    _cache: Any = None

    @torch.no_grad()
    def read(self, tokens: Int[Tensor, "row token"], keep: int = 1) -> Float[Tensor, "row keep vocabulary"]:
        """Logits after the last `keep` of these tokens, which follow those that were read before.

        Raises:
            UserError: the text exceeds the context.
        """
        reader, first = self.reader, self.tokens is None
        before = len(self.prefix) + (0 if self.tokens is None else self.tokens.shape[1])
        self.tokens = tokens if self.tokens is None else torch.cat([self.tokens, tokens], dim=1)
        if not reader.may_keep(len(self.prefix) + self.tokens.shape[1]):
            return self._whole(keep)
        if first:
            self._cache = spread_cache(reader.cache_of(self.prefix), self.rows)
        logits, self._cache = reader.forward(tokens, self._cache, before, keep)
        if first and not reader.check(self.prefix, tokens[0], logits[0]):
            return self._whole(keep)
        return logits

    def go_on_with(self, rows: Int[Tensor, "kept"]) -> None:
        """Keep these rows alone, by their numbers; what they have read stays read."""
        self.rows = len(rows)
        self.tokens = None if self.tokens is None else self.tokens[rows]
        if self._cache is not None:
            self._cache.reorder_cache(rows.to(self.reader.model.device))

    def _whole(self, keep: int) -> Tensor:
        assert self.tokens is not None
        begin = torch.tensor(self.prefix, dtype=torch.long)[None].expand(self.rows, -1)
        return self.reader.whole(torch.cat([begin, self.tokens.cpu()], dim=1), keep)


def spread_cache(cache: Any, rows: int) -> Any:
    """The cache of one row for so many rows; nothing is copied where a layer keeps keys and values and nothing else."""
    if cache is None:
        return None
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    spread = copy.copy(cache)
    spread.layers = []
    for layer in cache.layers:
        plain = type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and layer.is_initialized
        own = copy.copy(layer) if plain else copy.deepcopy(layer)
        if plain:
            own.keys, own.values = (tensor.expand(rows, -1, -1, -1) for tensor in (layer.keys, layer.values))
        else:
            own.reorder_cache(torch.zeros(rows, dtype=torch.long))
        spread.layers.append(own)
    return spread


@torch.no_grad()
def read_variants(
    reader: PrefixReader, base: Sequence[int], variants: Sequence[Sequence[int]], keep: int = 1
) -> Float[Tensor, "variant keep vocabulary"]:
    """Logits after the last `keep` tokens of each of a few variants of a text, which share what they can with it.

    Args:
        reader: of the model.
        base: the text that they are variants of.
        variants: each of at least one token.
        keep: 1 to the length of the shortest.

    Raises:
        UserError: a variant exceeds the context.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, variant in enumerate(variants):
        shared = min(shared_length(base, variant), len(variant) - keep)
        groups.setdefault((shared, len(variant)), []).append(index)
    logits: list[Tensor] = [torch.empty(0)] * len(variants)
    for (shared, length), indices in groups.items():
        size = reader.rows_at_once(length - shared, keep)
        for start in range(0, len(indices), size):
            chosen = indices[start : start + size]
            rows = pad_right([variants[index][shared:] for index in chosen], 0)
            for index, seen in zip(chosen, reader.read(variants[chosen[0]][:shared], rows, keep), strict=True):
                logits[index] = seen
    return torch.stack(logits)


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts share at their beginning."""
    for place, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return place
    return min(len(first), len(second))
