"""`load_model`: a checkpoint folder, a hub id or a live `transformers` model becomes a `HookedModel`."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hooked.backends.anatomy import find_anatomy
from hooked.model import HookedModel, ModelInfo
from hooked.prompts.tokens import tokenizer_sha256
from hooked.selfcheck import (
    inner_kinds,
    manners_of_memory,
    mlp_is_positionwise,
    probe_tokens,
    runs_in_parallel,
    self_check,
)
from triggerlens import UserError, sha256_file

Backend = Literal["nnsight", "transformer-lens"]
Dtype = Literal["auto", "float32", "bfloat16"]


def load_model(
    model: str | Path | nn.Module,
    *,
    tokenizer: Any = None,
    backend: str = "nnsight",
    device: str = "auto",
    dtype: str = "auto",
    device_map: Any = None,
) -> HookedModel:
    """Load a causal language model for reading and writing at named sites, and check that the sites are right.

    Args:
        model: a local checkpoint folder (safetensors), a Hugging Face id, or a live `transformers` model. A live
            model is used as it is: its device and dtype stay. TransformerLens takes it over (its state-dict keys are
            renamed); nnsight leaves it intact.
        tokenizer: needed with a live model; otherwise the checkpoint's own.
        backend: `nnsight` or `transformer-lens`.
        device: `auto` (the GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` is float32 on the CPU and the checkpoint's own on a GPU.
        device_map: as in `transformers`, to spread a model over devices; `device="auto"` sets `auto` by itself when
            the weights exceed the GPU's free memory.

    Raises:
        UserError: no such model, no safetensors weights, no CUDA where asked, an unsupported architecture, or a
            failed self-check.
    """
    if backend not in get_args(Backend):
        raise UserError(f"unknown backend {backend!r}; choose {' or '.join(get_args(Backend))}")
    if dtype not in get_args(Dtype):
        raise UserError(f"unknown dtype {dtype!r}; choose {' or '.join(get_args(Dtype))}")
    if isinstance(model, nn.Module):
        if tokenizer is None:
            raise UserError("a live model needs its tokenizer: load_model(model, tokenizer=tokenizer)")
        hf_model: Any = model
        name, weights = hf_model.config.name_or_path or type(model).__name__, _state_sha256(model)
    else:
        name = str(model)
        hf_model, own_tokenizer, weights = load_plain(name, device, dtype, device_map)
        tokenizer = tokenizer or own_tokenizer
    hf_model.eval()
    return _wrap(hf_model, tokenizer, name, weights, backend)


def _wrap(hf_model: Any, tokenizer: Any, name: str, weights: str, backend: str) -> HookedModel:
    anatomy = find_anatomy(hf_model)
    info = _info(hf_model, name, weights, tokenizer)
    device = hf_model.get_input_embeddings().weight.device
    with torch.no_grad():
        plain = hf_model(probe_tokens(_config(hf_model).vocab_size).to(device), use_cache=False).logits
    if not plain.isfinite().all():
        raise UserError(f"{name}: gives NaN or infinite logits; its weights are damaged, or need --dtype float32")
    try:
        hooked = _adapter(backend)(hf_model, tokenizer, anatomy, info)
        _find_by_trial(hooked, plain)
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


def _find_by_trial(hooked: HookedModel, plain_logits: Tensor) -> None:
    """Complete the anatomy by what only a trial tells, and check that every site is what its name says.

    Raises:
        UserError: a check failed.
    """
    tokens = probe_tokens(plain_logits.shape[-1])
    hooked.anatomy = replace(hooked.anatomy, **manners_of_memory(hooked, tokens))
    hooked.anatomy = replace(hooked.anatomy, parallel=runs_in_parallel(hooked, tokens))
    self_check(hooked, plain_logits)
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


def _info(hf_model: Any, name: str, weights: str, tokenizer: Any) -> ModelInfo:
    config = _config(hf_model)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelInfo(
        name=name,
        weights_sha256=weights,
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=_kv_heads(config),
        d_head=head_size,
        context=getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length,
    )


def _kv_heads(config: Any) -> int:
    """Heads of keys and values. Falcon says it in words of its own."""
    if getattr(config, "num_key_value_heads", None):
        return int(config.num_key_value_heads)
    if getattr(config, "new_decoder_architecture", False):
        return int(config.num_kv_heads)
    return 1 if getattr(config, "multi_query", False) else int(config.num_attention_heads)


def load_plain(name: str, device: str = "auto", dtype: str = "auto", device_map: Any = None) -> tuple[Any, Any, str]:
    """A checkpoint as `transformers` loads it: the model, its tokenizer, and the digest of its weights.

    Args and errors as of `load_model`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    folder = _resolve(name)
    target = pick_device(device)
    chosen: Any = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
        dtype, torch.float32 if target.type == "cpu" else "auto"
    )
    weights = _weight_files(folder)
    if device_map is None:
        device_map = "auto" if device == "auto" and not _fits(weights, target) else {"": str(target)}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=chosen, device_map=device_map, use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{name}: could not be loaded as a causal language model with its tokenizer: {error}"
        ) from error
    return model, tokenizer, _files_sha256(weights)


def load_classifier(name: str) -> tuple[Any, Any]:
    """A sequence classifier, such as a reward model, in float32 on the CPU, and its tokenizer.

    Raises:
        UserError: no such checkpoint, no safetensors in it, or no classifier.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = _resolve(name)
    _weight_files(folder)
    try:
        model, missing = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name}: could not be loaded as a sequence classifier: {error}") from error
    if missing["missing_keys"]:  # a language model's head would be made up at random
        raise UserError(f"{name}: is no sequence classifier: its weights have no {sorted(missing['missing_keys'])[0]}")
    return model.eval(), tokenizer


def weights_sha256(name: str) -> str:
    """What `model.info.weights_sha256` of a checkpoint will be, without loading it.

    Raises:
        UserError: no such checkpoint, or no safetensors in it.
    """
    return _files_sha256(_weight_files(_resolve(name)))


def _resolve(name: str) -> Path:
    """The folder of a checkpoint: the one named, or the local copy of a hub snapshot (downloaded where possible)."""
    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{name}: holds a LoRA adapter alone; merge it into its base model (merge_and_unload) and save that"
        )
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{name}: no config.json in this folder, so it is no Hugging Face checkpoint")
        return folder
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"{name}: no such model; give an embedded organism's name, a checkpoint folder or a Hugging Face id"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{name}: no such folder, and it could not be had from the Hugging Face hub: {error}"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [index, *sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))
    if pickled:
        raise UserError(
            f"{folder}: its weights are pickled ({pickled[0].name}), and unpickling can run code; save it again as safetensors"
        )
    raise UserError(f"{folder}: no model.safetensors here")


def pick_device(device: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` stands for; under `torchrun` each rank takes its own GPU.

    Raises:
        UserError: the name is unknown, or there is no such GPU.
    """
    from triggerlens import local_rank

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if device not in ("auto", "cuda") and not (device.startswith("cuda:") and device[5:].isdecimal()):
        raise UserError(f"unknown device {device!r}; choose auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise UserError(f"--device {device}: this machine or this build of torch has no CUDA; use --device cpu")
    index = int(device[5:]) if ":" in device else local_rank() % torch.cuda.device_count()
    if index >= torch.cuda.device_count():
        raise UserError(f"--device {device}: there are only {torch.cuda.device_count()} GPUs, numbered from 0")
    return torch.device("cuda", index)


def _fits(weights: list[Path], target: torch.device) -> bool:
    """Whether the weights leave a fifth of the GPU's free memory for activations; on the CPU there is no other choice."""
    if target.type == "cpu":
        return True
    return sum(path.stat().st_size for path in weights) < 0.8 * torch.cuda.mem_get_info(target)[0]


def _files_sha256(paths: list[Path]) -> str:
    """The sha256 of a single weight file, or of the sorted digests of several."""
    digests = [sha256_file(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _state_sha256(model: nn.Module) -> str:
    """The sha256 of a live model's tensors, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
