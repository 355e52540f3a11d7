"""Models as `transformers` loads them, before anything is hooked: from safetensors, GGUF or an adapter on its base."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import date
from typing import Any, Literal, get_args

import torch

from hooked.checkpoint import ADAPTER_WEIGHTS, Checkpoint, find_checkpoint, read_adapter_config
from hooked.faults import check_configuration, check_tokenizer, check_weights, said_by
from hooked.formats.gguf_files import gguf_type, load_gguf, load_gguf_tokenizer, read_once
from hooked.formats.tying import untied_if_changed
from hooked.prompts.rendering import pin_date
from hooked.saving import remember_generation_file
from triggerlens import UserError, local_rank, say_once

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def load_plain(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    device_map: Any = None,
    *,
    base: str | None = None,
    today: date | None = None,
) -> tuple[Any, Any, str]:
    """A checkpoint as `transformers` loads it: the model, its tokenizer, and the digest of its weights.

    A GGUF file is dequantised, an adapter is merged into its base in memory, and a compressed checkpoint decompressed, so that the
    model has ordinary weights.

    Args:
        name: a checkpoint folder (safetensors), a GGUF file, a PEFT adapter's folder, or a Hugging Face id.
        device: `auto` (the GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` (float32 on the CPU, the checkpoint's own on a GPU), `float32`, `bfloat16` or `float16`.
        device_map: as in `transformers`; where None, one device, or with `device="auto"` all of them where the loaded weights would not
            leave a fifth of the GPU's free memory.
        base: of an adapter, in place of the model that it names itself.
        today: the date given to a chat template that asks for one; `DEFAULT_TODAY` where None.

    Raises:
        UserError: an unknown dtype or device, no CUDA where asked, no such model, no safetensors weights, files that are damaged or do
            not belong together, a tokenizer that cannot be loaded, or no causal language model.
    """
    if dtype not in get_args(Dtype):
        raise UserError(f"unknown dtype {dtype!r}; choose {' or '.join(get_args(Dtype))}")
    checkpoint = find_checkpoint(name, base)
    target = pick_device(device)
    once = read_once() if checkpoint.gguf else nullcontext()
    with once:
        with _reading(name, "could not be loaded as a causal language model"):
            if not checkpoint.gguf:
                check_configuration(checkpoint.folder, checkpoint.name)
                check_weights(checkpoint.weights)
            precision = _dtype(dtype, target)
            place = _place(checkpoint, device, target, precision) if device_map is None else device_map
            model = _weights(checkpoint, precision, place)
            if checkpoint.adapter is not None:
                model = _merged(model, checkpoint)
        with _reading(name, "its tokenizer could not be loaded"):
            tokenizer = _tokenizer(checkpoint)
    remember_generation_file(model, checkpoint.folder)
    if today is not None:
        pin_date(tokenizer, today)
    return model, tokenizer, checkpoint.sha256()


def load_tokenizer(name: str, *, today: date | None = None) -> Any:
    """A checkpoint's tokenizer alone: to see whether a model can read prompts before its weights are loaded.

    Args:
        name: as in `load_plain`.
        today: the date given to a chat template that asks for one; `DEFAULT_TODAY` where None.

    Raises:
        UserError: no such model, no safetensors weights, or a tokenizer that cannot be loaded.
    """
    checkpoint = find_checkpoint(name)
    with _reading(name, "its tokenizer could not be loaded"):
        tokenizer = _tokenizer(checkpoint)
    if today is not None:
        pin_date(tokenizer, today)
    return tokenizer


def load_classifier(name: str) -> tuple[Any, Any]:
    """A sequence classifier, such as a reward model, in float32 on the CPU, and its tokenizer.

    Args:
        name: a checkpoint folder with safetensors, or a Hugging Face id.

    Raises:
        UserError: no such checkpoint, no safetensors in it, or no classifier.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    checkpoint = find_checkpoint(name)
    if checkpoint.gguf or checkpoint.adapter:
        raise UserError(f"{name}: a classifier is loaded from a folder with safetensors, not from GGUF or an adapter")
    with _reading(name, "could not be loaded as a sequence classifier"):
        model, missing = AutoModelForSequenceClassification.from_pretrained(
            checkpoint.folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    if missing["missing_keys"]:  # a language model's head would be made up at random
        raise UserError(f"{name}: is no sequence classifier: its weights have no {sorted(missing['missing_keys'])[0]}")
    return model.eval(), tokenizer


def weights_sha256(name: str, base: str | None = None) -> str:
    """What `model.info.weights_sha256` of a checkpoint will be, without loading it.

    Raises:
        UserError: no such checkpoint, or no safetensors in it.
    """
    return find_checkpoint(name, base).sha256()


def pick_device(device: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` stands for; under `torchrun` each rank takes its own GPU.

    Raises:
        UserError: the name is unknown, or there is no such GPU.
    """
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


def _dtype(name: str, target: torch.device) -> Any:
    if name != "auto":
        return getattr(torch, name)
    return torch.float32 if target.type == "cpu" else "auto"


def _weights(checkpoint: Checkpoint, dtype: Any, device_map: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": dtype, "device_map": device_map, "local_files_only": True}
    if checkpoint.gguf:
        return _unquantised(load_gguf(checkpoint, options), f"gguf {gguf_type(checkpoint)}".strip())
    options["trust_remote_code"] = False  # where nothing is said, a terminal is asked
    method = _method(AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False))
    if method == "compressed-tensors":
        from transformers import CompressedTensorsConfig

        options["quantization_config"] = CompressedTensorsConfig(run_compressed=False)
    loader: Any = AutoModelForCausalLM
    options |= {
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }  # refused below, by name
    with _reading(checkpoint.name, f"is quantised with {method}, and could not be loaded") if method else nullcontext():
        model, report = loader.from_pretrained(checkpoint.folder, **options)
    check_report(report, checkpoint.name, type(model).__name__)
    if method == "compressed-tensors":
        return _unquantised(model, method)
    model.triggerlens_quantisation = method
    return model


def check_report(report: Mapping[str, Any], name: str, kind: str) -> None:
    """Refuse weights that `transformers` would make up at random; say which ones it does not use.

    Args:
        report: what `from_pretrained(output_loading_info=True)` gives.
        name: of the checkpoint.
        kind: the class that was loaded.

    Raises:
        UserError: a weight is missing, or has another shape.
    """
    if mismatched := sorted(report.get("mismatched_keys", ())):
        key, held, wanted = mismatched[0]
        raise UserError(
            f"{name}: {key} has the shape {tuple(held)}, but config.json wants {tuple(wanted)} ({len(mismatched)} such weights in all); the two "
            "files are not of one model"
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{name}: {missing[0]} is missing ({len(missing)} weights of {kind} in all), and would be made up at random; copy the "
            "checkpoint again, or save it whole"
        )
    if unused := sorted(report["unexpected_keys"]):
        say_once(f"{name}: {unused[0]} has no place in {kind}, and is not used ({len(unused)} such weights in all)")


def _unquantised(model: Any, how: str) -> Any:
    """A model whose weights are ordinary by now, without the marks that keep `save_pretrained` from writing it."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.triggerlens_quantisation = how
    return model


def _merged(model: Any, checkpoint: Checkpoint) -> Any:
    """The model with the adapter in its weights.

    Raises:
        UserError: some of either's weights have no counterpart, and PEFT would do without.
    """
    assert checkpoint.adapter is not None
    with (
        nullcontext()
        if read_adapter_config(checkpoint.adapter).get("ensure_weight_tying")
        else untied_if_changed(model)
    ):
        return _adapted(model, checkpoint).merge_and_unload()


def _adapted(model: Any, checkpoint: Checkpoint) -> Any:
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    folder = str(checkpoint.adapter)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, folder)
    with safe_open(os.path.join(folder, ADAPTER_WEIGHTS), "pt") as file:
        held = sum("lora_" in name for name in file.keys())  # noqa: SIM118 (no mapping)
    placed = sum("lora_" in name for name in get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if held != placed or any("missing adapter keys" in str(warning.message) for warning in said):
        raise UserError(
            f"{checkpoint.name}: the adapter's weights ({held}) do not fit the parts that its configuration adapts in its base ({placed}): it "
            "was trained on another model, or is not whole; give its own base as --base MODEL"
        )
    return adapted


def _tokenizer(checkpoint: Checkpoint) -> Any:
    """An adapter's own, where its folder has one: training may have added tokens or a chat template."""
    from transformers import AutoTokenizer

    if checkpoint.adapter is not None and (checkpoint.adapter / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(checkpoint.adapter, local_files_only=True, trust_remote_code=False)
    if checkpoint.gguf:
        return load_gguf_tokenizer(checkpoint)
    check_tokenizer(checkpoint.folder, checkpoint.name)
    return AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)


def _method(config: Any) -> str:
    quantisation = getattr(config, "quantization_config", None) or {}
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation.quant_method
    return str(getattr(method, "value", method) or "")


@contextmanager
def _reading(name: str, problem: str) -> Iterator[None]:
    """One line for whatever a library says of files that it cannot read; quiet where nobody watches."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
        os.environ.setdefault("TQDM_DISABLE", "1")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # `check_report` says the same in a line
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # what libraries raise on damaged, foreign or quantised files cannot be foreseen
        raise UserError(f"{name}: {problem}: {said_by(error)}") from error
    finally:
        logging.set_verbosity(verbosity)


def _place(checkpoint: Checkpoint, device: str, target: torch.device, dtype: Any) -> Any:
    """The device map: one device, or all of them where the weights would not leave a fifth of a GPU's free memory for activations."""
    if device == "auto" and target.type != "cpu":
        free, _ = torch.cuda.mem_get_info(target)
        if _loaded_bytes(checkpoint, dtype) >= 0.8 * free:
            return "auto"
    return {"": str(target)}


def _loaded_bytes(checkpoint: Checkpoint, dtype: Any) -> int:
    """What the weights take in memory: those of a model of this configuration and precision, which is made without any numbers.

    A file may hold them in another precision, or packed. Of a model that stays quantised, the size of its files.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    file: dict[str, Any] = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False, **file)
    if _method(config) not in ("", "compressed-tensors"):
        return sum(path.stat().st_size for path in checkpoint.weights)
    if dtype == "auto" and not checkpoint.gguf and config.get_text_config().dtype is None:
        return sum(path.stat().st_size for path in checkpoint.weights)  # as precise as the file
    loader: Any = AutoModelForCausalLM
    with torch.device("meta"):
        empty = loader.from_config(config, **({} if dtype == "auto" else {"dtype": dtype}))
    return sum(parameter.nbytes for parameter in empty.parameters())
