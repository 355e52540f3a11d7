"""The identity of a model: everything that decides what it computes, in one place.

Two models of one identity give the same activations for the same token ids; whatever may change a number changes it. The
activation store is addressed by it, and saved probes name it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

_LIBRARIES = ("torch", "transformers", "nnsight", "transformer-lens", "peft")
_HOOKING = ("transformers", "accelerate", "peft", "nnsight", "transformer_lens", "torch", "hooked")
_NOT_COMPUTED = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Fields of a configuration that say where, by what and in which precision it was saved. All others are taken to matter."""


def model_facts(hf_model: Any, weights_sha256: str) -> dict[str, Any]:
    """Which function of token ids a model is, however exactly that is computed, as JSON.

    Args:
        hf_model: as loaded.
        weights_sha256: of the files, or of a live model's tensors.
    """
    return {
        "class": type(hf_model).__name__,
        "weights": weights_sha256,
        "config": config_facts(hf_model.config),
        "adapters": adapter_facts(hf_model),
        "training": hf_model.training,
    } | ({"hooks": hooks} if (hooks := _foreign_hooks(hf_model)) else {})


def computation_facts(hf_model: Any, backend: str) -> dict[str, Any]:
    """What the last digits depend on: dtypes, devices, the kernels of attention and experts, the backend, and the libraries' versions."""
    config = hf_model.config.get_text_config()
    return {
        "dtypes": sorted({str(parameter.dtype) for parameter in hf_model.parameters()}),
        "devices": sorted({parameter.device.type for parameter in hf_model.parameters()}),
        "attention": getattr(config, "_attn_implementation", None),
        "experts": getattr(config, "_experts_implementation", None),
        "backend": backend,
        "libraries": _versions(),
    }


def identity_sha256(facts: Mapping[str, Any]) -> str:
    """One name for an identity: the sha256 of its facts as JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def config_facts(config: Any) -> dict[str, Any]:
    """Every field of a configuration, of nested ones too, but for where it was saved."""
    return _without(config.to_dict(), _NOT_COMPUTED)


def adapter_facts(model: nn.Module) -> list[dict[str, Any]]:
    """For each layer with a PEFT adapter: which adapters are active, their scales, and whether they are merged or switched off."""
    facts = []
    for name, module in model.named_modules():
        own = type(module)
        if isinstance(getattr(own, "active_adapters", None), property) and hasattr(own, "disable_adapters"):
            active = [str(adapter) for adapter in module.active_adapters]
            scaling = getattr(module, "scaling", {})
            facts.append(
                {
                    "module": name,
                    "active": active,
                    "scales": [float(scaling[adapter]) for adapter in active if adapter in scaling],
                    "merged": [str(adapter) for adapter in getattr(module, "merged_adapters", ())],
                    "off": bool(module.disable_adapters),
                }
            )
    return facts


def state_sha256(model: nn.Module) -> str:
    """The sha256 of a live model's tensors, by name."""
    return tensors_sha256(model.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors: their names, dtypes, shapes and bytes, in the order of their names, wherever they lie."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def memory_marks(model: nn.Module) -> int:
    """A number that changes whenever a weight is replaced or changed in place, also where autograd does not see it. It takes one pass over
    the memory."""
    buffers = [value for value in model.state_dict(keep_vars=True).values() if not isinstance(value, nn.Parameter)]
    # A backend may name buffers anew, and so put them in another order.
    return hash((tuple(map(_mark, model.parameters())), frozenset(map(_mark, buffers))))


def _mark(value: Tensor) -> tuple[int, int, int]:
    return value.data_ptr(), value._version, _checksum(value)


def _checksum(value: Tensor) -> int:
    """The sum of a tensor's memory, read as whole numbers: a change anywhere changes it."""
    if value.device.type == "meta" or not value.numel():
        return 0
    memory = value.detach().contiguous().flatten().view(torch.uint8)
    whole = len(memory) // 8 * 8
    rest = int(memory[whole:].sum()) if whole < len(memory) else 0
    return int(memory[:whole].view(torch.int64).sum()) + rest


def _foreign_hooks(model: nn.Module) -> list[str]:
    """Hooks that no known library has set: what they do has no name, so each loading of such a model has another identity."""
    names = {
        f"{name}: {getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(hook).__name__)}"
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if (function := getattr(hook, "func", hook))
        and str(getattr(function, "__module__", "")).partition(".")[0] not in _HOOKING
    }
    return [*sorted(names), uuid4().hex] if names else []


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {str(key): _without(item, names) for key, item in value.items() if key not in names}
    if isinstance(value, list | tuple):
        return [_without(item, names) for item in value]
    return value


def _versions() -> dict[str, str]:
    from importlib import metadata

    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
