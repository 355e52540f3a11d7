"""`load_model`: a checkpoint folder, a hub id or a live `transformers` model becomes a `HookedModel`."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hooked.backends.anatomy import Anatomy, find_anatomy
from hooked.batching import PlainTrial, try_plain, widest_padding
from hooked.generation import context_of
from hooked.identity import memory_marks, model_facts, state_sha256
from hooked.model import HookedModel, ModelInfo, projection_weight
from hooked.plain import load_plain
from hooked.prompts.rendering import DEFAULT_TODAY
from hooked.prompts.tokens import tokenizer_sha256
from hooked.selfcheck import (
    inner_kinds,
    manners_of_memory,
    mlp_is_positionwise,
    probe_tokens,
    runs_in_parallel,
    self_check,
)
from triggerlens import UserError, say_once, whole_path

Backend = Literal["nnsight", "transformer-lens"]


def load_model(
    model: str | Path | nn.Module,
    *,
    tokenizer: Any = None,
    backend: str = "nnsight",
    device: str = "auto",
    dtype: str = "auto",
    device_map: Any = None,
    base: str | None = None,
    today: date = DEFAULT_TODAY,
) -> HookedModel:
    """Load a causal language model for reading and writing at named sites, and check that the sites are right.

    Args:
        model: a local checkpoint folder (safetensors), a GGUF file, a PEFT adapter's folder, a Hugging Face id, or a live
            `transformers` or PEFT model. A live model is used as it is: its device, dtype and active adapters stay.
            TransformerLens takes it over (its state-dict keys are renamed); nnsight leaves it intact.
        tokenizer: needed with a live model; otherwise the checkpoint's own.
        backend: `nnsight` or `transformer-lens`.
        device: `auto` (the GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` is float32 on the CPU and the checkpoint's own on a GPU.
        device_map: as in `transformers`, to spread a model over devices; `device="auto"` sets `auto` by itself when
            the weights, once loaded, would take four fifths of the GPU's free memory or more.
        base: of an adapter, in place of the model that it names itself.
        today: the date given to a chat template that asks for one.

    Raises:
        UserError: an unknown backend, dtype or device, no CUDA where asked, no such model, no safetensors weights, damaged files, a live
            model without its tokenizer, an unsupported architecture, a model that is not causal, NaN or infinite logits, or a failed
            self-check.
    """
    if backend not in get_args(Backend):
        raise UserError(f"unknown backend {backend!r}; choose {' or '.join(get_args(Backend))}")
    given = tokenizer
    if isinstance(model, nn.Module):
        if tokenizer is None:
            raise UserError("a live model needs its tokenizer: load_model(model, tokenizer=tokenizer)")
        hf_model = _unwrapped(model)
        name, weights = hf_model.config.name_or_path or type(hf_model).__name__, state_sha256(hf_model)
    else:
        name = str(model)
        hf_model, own_tokenizer, weights = load_plain(name, device, dtype, device_map, base=base)
        tokenizer = tokenizer or own_tokenizer
    hf_model.eval()
    hooked = _wrap(hf_model, tokenizer, name, weights, backend, isinstance(model, nn.Module))
    hooked.today, hooked.base = today, base
    hooked._marks = memory_marks(hf_model)  # now that the backend has added what it adds
    if not isinstance(model, nn.Module):
        options = {"tokenizer": given, "backend": backend, "device": device, "dtype": dtype, "device_map": device_map}
        hooked.again = partial(load_model, whole_path(name), **options, base=base and whole_path(base), today=today)
    return hooked


def _unwrapped(model: nn.Module) -> Any:
    """The `transformers` model inside a PEFT model, with its adapters in place, or inside what `torch.compile` made of it."""
    inner: Any = getattr(model, "_orig_mod", model)
    config = getattr(inner, "active_peft_config", None)
    if config is not None and getattr(config, "is_prompt_learning", False):
        raise UserError(
            f"a PEFT model of type {getattr(config.peft_type, 'value', config.peft_type)} puts virtual tokens before each prompt, which cannot be read "
            "here; only adapters that change weights can"
        )
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def _wrap(hf_model: Any, tokenizer: Any, name: str, weights: str, backend: str, live: bool) -> HookedModel:
    anatomy = find_anatomy(hf_model)
    info = _info(hf_model, name, weights, tokenizer, live, anatomy)
    device = hf_model.get_input_embeddings().weight.device
    if not getattr(hf_model.config, "return_dict", True):
        raise UserError(
            f"{name}: its configuration says `return_dict: false`, and a plain tuple cannot be read; set it to true"
        )
    with torch.no_grad():
        probe = probe_tokens(_config(hf_model).vocab_size)
        plain = hf_model(probe.to(device), use_cache=False).logits
    if not plain.isfinite().all():
        raise UserError(f"{name}: gives NaN or infinite logits; its weights are damaged, or need --dtype float32")
    trial = try_plain(hf_model, anatomy, name, probe, plain[0])
    try:
        hooked = _adapter(backend)(hf_model, tokenizer, anatomy, info)
        _find_by_trial(hooked, plain, trial)
    except UserError:
        raise
    # What nnsight or TransformerLens raises on an architecture that it does not know cannot be foreseen.
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        other = "nnsight" if backend == "transformer-lens" else "transformer-lens"
        raise UserError(
            f"{name}: {backend} cannot read {type(hf_model).__name__} ({type(error).__name__}: {reason}); try --backend {other}"
        ) from error
    return hooked


def _adapter(backend: str) -> type[HookedModel]:
    if backend == "nnsight":
        from hooked.backends.nnsight import NnsightModel

        return NnsightModel
    from hooked.backends.transformer_lens import TransformerLensModel

    return TransformerLensModel


def _find_by_trial(hooked: HookedModel, plain_logits: Tensor, trial: PlainTrial) -> None:
    """Complete the anatomy by what only a trial tells, and check that every site is what its name says.

    Raises:
        UserError: a check failed.
    """
    tokens = probe_tokens(plain_logits.shape[-1])
    hooked.anatomy = manners_of_memory(hooked, tokens)
    hooked.anatomy = replace(hooked.anatomy, parallel=runs_in_parallel(hooked, tokens))
    self_check(hooked, plain_logits)
    hooked.padded_to = widest_padding(hooked, trial)
    if hooked.padded_to is not None:
        say_once(
            f"{hooked.info.name}: prompts longer than {hooked.padded_to} tokens share a batch with prompts of their own length alone, since "
            "this model computes a text by the longest beside it"
        )
    hooked.anatomy = replace(hooked.anatomy, positionwise=mlp_is_positionwise(hooked, tokens))
    best: tuple[str, ...] = ()
    projections = None
    for layout in hooked.layouts:
        inner = inner_kinds(hooked, tokens, layout)
        if len(inner) > len(best):
            best, projections = inner, layout
    hooked.anatomy = replace(hooked.anatomy, projections=projections, inner=best)


def _config(hf_model: Any) -> Any:
    return hf_model.config.get_text_config()


def _info(hf_model: Any, name: str, weights: str, tokenizer: Any, live: bool, anatomy: Anatomy) -> ModelInfo:
    config = _config(hf_model)
    return ModelInfo(
        name=name,
        weights_sha256=weights,
        facts=model_facts(hf_model, weights),
        quantisation=getattr(hf_model, "triggerlens_quantisation", ""),
        live=live,
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=_kv_heads(config),
        d_head=_head_size(hf_model, anatomy, config.num_attention_heads),
        context=context_of(hf_model, tokenizer),
    )


def _head_size(hf_model: Any, anatomy: Anatomy, heads: int) -> int:
    """How wide what each head mixes is: the output projection's input, shared out. Configurations say it in many ways."""
    layer = next(
        layer for layer in range(hf_model.config.get_text_config().num_hidden_layers) if anatomy.has_attention(layer)
    )
    module = hf_model.get_submodule(anatomy.block_path(layer, anatomy.out_projection))
    return projection_weight(module).shape[1] // heads


def _kv_heads(config: Any) -> int:
    """Heads of keys and values. Falcon says it in words of its own."""
    if getattr(config, "num_key_value_heads", None):
        return int(config.num_key_value_heads)
    if getattr(config, "new_decoder_architecture", False):
        return int(config.num_kv_heads)
    return 1 if getattr(config, "multi_query", False) else int(config.num_attention_heads)
