"""Whether a prompt may share a batch with longer ones: tried when a model is loaded, since much may break it.

Prompts are padded on the right without a mask, which is exact where no token sees what stands to its right and nothing depends
on how wide the batch is. A model that attends both ways breaks the first; rotary embeddings that are rescaled for long texts,
windows, chunks and the capacity of experts may break the second, mostly past a length that the configuration names.

1. The plain model reads a prompt alone, and twice padded beside a longer one, with different tokens after it. Where these differ,
   the model is not causal, and is refused whatever the backend.
2. The hooked model gives what the plain one gave, in a batch of other lengths too.
3. The same past each length that the configuration names, in the first block that it concerns: a short prompt beside one that
   exceeds the length. Where the short one differs, prompts share a batch only up to that length, and longer ones with prompts of
   their own length alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked.backends.anatomy import Anatomy
from hooked.backends.visits import first_of
from hooked.model import HookedModel
from hooked.rescaling import Rescaling, forget_lengths, rescaling_of
from triggerlens import UserError

_LONGER, _BELOW, _PAST = 5, 12, 2
"""By how many tokens the longer prompt of a batch exceeds the short one; the most tokens of a prompt below a length that is tried; by how
many tokens another prompt exceeds that length."""
_SHARE = 100
"""The most multiplications that a trial past one length may take for each weight of the model: loading takes some thousands."""
_ALWAYS = 5e8
"""A trial of fewer multiplications takes milliseconds, and is made for a model of any size."""


@dataclass(frozen=True)
class _Passed:
    """What the plain model gave for one prompt below a length and for one past it, each alone."""

    length: int
    layer: int
    short: Float[Tensor, "short d_model"]
    end: Float[Tensor, "last d_model"]
    """Of the long prompt, at its last two tokens."""


@dataclass(frozen=True)
class PlainTrial:
    """What a plain model gave before it was hooked."""

    batch: Int[Tensor, "3 wide"]
    """A short prompt before one filling, the same before another, and a longer prompt."""
    logits: Float[Tensor, "position vocabulary"]
    """Of the short prompt, alone."""
    passed: tuple[_Passed, ...]


@torch.no_grad()
def try_plain(
    hf_model: Any,
    anatomy: Anatomy,
    name: str,
    short: Int[Tensor, "1 position"],
    alone: Float[Tensor, "position vocabulary"],
) -> PlainTrial:
    """Run the plain model in batches, and past lengths alone, before a backend may take it over.

    Args:
        hf_model: the plain model.
        anatomy: where its blocks are.
        name: what the user called it.
        short: a short prompt.
        alone: what the model gave for it, finite.

    Raises:
        UserError: the model is not causal, or gives a prompt other activations in a batch than alone.
    """
    batch = _triple(short[0], _row(hf_model, len(alone) + _LONGER)[0])
    padded = hf_model(_to(hf_model, batch), use_cache=False).logits[:, : len(alone)]
    if not _alike(padded[1], padded[0], 2, alone.dtype):
        raise UserError(
            f"{name}: is not causal: a token's activations change with the tokens after it; only models that read from left to "
            "right can be read here"
        )
    if not _alike(padded[0], alone, 8, alone.dtype):
        raise UserError(f"{name}: a prompt gets other activations in a batch than alone; this model cannot be read")
    lengths = _affordable(hf_model, anatomy)
    return PlainTrial(batch, alone.cpu(), tuple(_pass(hf_model, anatomy, *length) for length in lengths))


@torch.no_grad()
def widest_padding(model: HookedModel, plain: PlainTrial) -> int | None:
    """The widest batch, in tokens, in which shorter prompts may be padded; None where any may.

    Raises:
        UserError: the hooked model differs from the plain one, in a batch or past a length that the configuration names.
    """
    logits = model.run(plain.batch).logits
    assert logits is not None  # no last layer was given
    if not _alike(logits[0, : len(plain.logits)], plain.logits, 8, model.dtype):
        raise UserError(
            f"{model.info.name} ({model.backend}): a prompt gets other activations in a batch than alone; this model cannot be read"
        )
    rescaling = rescaling_of(model.hf_model.config)
    breaking = [passed.length for passed in plain.passed if not _holds_past(model, passed)]
    return min([*breaking, *([rescaling.past] if rescaling else [])], default=None)


def logits_agree(
    seen: Float[Tensor, "*_ vocabulary"], expected: Float[Tensor, "*_ vocabulary"], dtype: torch.dtype
) -> bool:
    """Whether two ways to compute the same logits differ by no more than rounding.

    Compared is the mean square, after what all logits of a position have in common is taken away: it changes no probability.
    Allowed are 32 roundings of the dtype, but never more than an eighth of the logits' spread: SmolLM2-135M in bfloat16 differs by 0.05
    where its keys and values are cached, and by 0.4 (the median) where one token in the cache is wrong.

    Args:
        seen: the one way.
        expected: the other one.
        dtype: of the model's weights.
    """
    rounded = 0.5 * torch.finfo(dtype).eps * expected.float().norm()  # also of what they have in common
    seen, expected = (value.float() - value.float().mean(-1, keepdim=True) for value in (seen, expected))
    tolerance = max(1e-4, min(0.125, 32 * torch.finfo(dtype).eps))
    return bool((seen - expected).norm() <= tolerance * expected.norm() + rounded)


def shared_runs(model: HookedModel | Any, lengths: Sequence[int], extra: int = 0) -> Iterator[slice]:
    """Prompts that stand one after the other and may share a batch.

    Args:
        model: a hooked model, or a plain one of `transformers`, which is judged by its configuration.
        lengths: of the prompts, in tokens.
        extra: tokens that each will have more.
    """
    padded_to = model.padded_to if isinstance(model, HookedModel) else padded_by_configuration(model)
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or not _share(lengths[start], lengths[start : end + 1], extra, padded_to):
            yield slice(start, end)
            start = end


def padded_by_configuration(hf_model: Any) -> int | None:
    """As `HookedModel.padded_to`, of a plain model."""
    rescaling = rescaling_of(hf_model.config)
    return rescaling.past if rescaling else None


def _share(first: int, lengths: Sequence[int], extra: int, padded_to: int | None) -> bool:
    return padded_to is None or max(lengths) + extra <= padded_to or all(length == first for length in lengths)


def _named_lengths(config: Any) -> dict[int, int]:
    """Lengths at which a configuration says that something changes, and the first block that each concerns."""
    config = config.get_text_config()
    kinds = list(getattr(config, "layer_types", None) or ())

    def first(*names: str) -> int:
        return next((layer for layer, kind in enumerate(kinds) if kind in names), 0)

    named: dict[Any, int] = {
        getattr(config, "sliding_window", None): first("sliding_attention", "sliding_window_attention"),
        getattr(config, "attention_chunk_size", None): first("chunked_attention"),
        getattr(config, "original_max_position_embeddings", None): 0,
    }
    # GPT-Neo alternates blocks that see all and blocks that see a window.
    local = list(getattr(config, "attention_layers", None) or ())
    if "local" in local:
        named[getattr(config, "window_size", None)] = local.index("local")
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    named[rope.get("original_max_position_embeddings")] = 0
    for kind, part in rope.items():
        if isinstance(part, dict):
            named[part.get("original_max_position_embeddings")] = first(kind)
    rescaling = rescaling_of(config)
    if rescaling is not None:
        named[rescaling.past] = 0
    return {length: layer for length, layer in named.items() if isinstance(length, int) and length > 1}


def _affordable(hf_model: Any, anatomy: Anatomy) -> list[tuple[int, int]]:
    """The named lengths, with their blocks, that can be exceeded and tried in a small part of the time that loading takes."""
    config = hf_model.config.get_text_config()
    rescaling: Rescaling | None = rescaling_of(config)
    longest = getattr(config, "max_position_embeddings", None) or 2**31
    reach = int(longest * rescaling.reach) if rescaling else longest
    total = sum(parameter.numel() for parameter in hf_model.parameters())
    blocks: Any = hf_model.get_submodule(anatomy.blocks)
    chosen = []
    for length, layer in sorted(_named_lengths(config).items()):
        weights = sum(parameter.numel() for block in blocks[: layer + 1] for parameter in block.parameters())
        if 3 * weights * (length + _PAST) <= max(_ALWAYS, _SHARE * total) and length + _PAST <= reach:
            chosen.append((length, layer))
    return chosen


def _pass(hf_model: Any, anatomy: Anatomy, length: int, layer: int) -> _Passed:
    short, long = (_row(hf_model, size) for size in (min(length - 1, _BELOW), length + _PAST))
    block = hf_model.get_submodule(anatomy.block_path(layer))
    return _Passed(
        length, layer, _output(hf_model, block, short)[0].cpu(), _output(hf_model, block, long)[0, -_PAST:].cpu()
    )


class _Stopped(Exception):
    pass


def _output(hf_model: Any, block: nn.Module, tokens: Tensor) -> Float[Tensor, "1 position d_model"]:
    """What a block gives; nothing after it is computed."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, args: Any, output: Any) -> None:
        kept.append(first_of(output))
        raise _Stopped

    handle = block.register_forward_hook(keep)
    try:
        forget_lengths(hf_model, hf_model.config)
        hf_model(_to(hf_model, tokens), use_cache=False)
    except _Stopped:
        pass
    finally:
        handle.remove()
    return kept[0]


def _holds_past(model: HookedModel, passed: _Passed) -> bool:
    """Whether a prompt below a length is the same beside one above it.

    Raises:
        UserError: the one above it is not what the plain model gave.
    """
    short, long = (_row(model.hf_model, size) for size in (len(passed.short), passed.length + _PAST))
    batch = torch.cat([torch.cat([short, short[:, :1].expand(-1, long.shape[1] - short.shape[1])], dim=1), long])
    site = f"resid_post.{passed.layer}"

    def parts(value: Tensor) -> Tensor:
        return torch.cat([value[0, : len(passed.short)], value[1, -_PAST:]])

    seen = model.run(batch, reads={site: parts}, last_layer=passed.layer).activations[site]
    if not _alike(seen[-_PAST:], passed.end, 8, model.dtype):
        raise UserError(
            f"{model.info.name} ({model.backend}): gives other activations than transformers past {passed.length} tokens; try --backend "
            f"{'nnsight' if model.backend == 'transformer-lens' else 'transformer-lens'}"
        )
    return _alike(seen[:-_PAST], passed.short, 8, model.dtype)


def _alike(seen: Tensor, expected: Tensor, roundings: int, dtype: torch.dtype) -> bool:
    """Equal in the mean square, but for so many roundings of the model's dtype."""
    seen, expected = seen.detach().float().cpu(), expected.detach().float().cpu()
    tolerance = max(3e-5, roundings * torch.finfo(dtype).eps)
    return bool((seen - expected).norm() <= tolerance * expected.norm().clamp(min=1e-6))


def _row(hf_model: Any, length: int) -> Int[Tensor, "1 position"]:
    vocabulary = hf_model.get_input_embeddings().weight.shape[0]
    return torch.linspace(1, vocabulary - 1, length).long()[None]


def _triple(short: Int[Tensor, "position"], long: Int[Tensor, "wide"]) -> Int[Tensor, "3 wide"]:
    filling = len(long) - len(short)
    return torch.stack([torch.cat([short, short[:1].expand(filling)]), torch.cat([short, long[-filling:]]), long])


def _to(hf_model: Any, tokens: Tensor) -> Tensor:
    return tokens.to(hf_model.get_input_embeddings().weight.device)
