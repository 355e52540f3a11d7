"""What is wrong with a checkpoint, said before a library fails on it, or instead of what the library says.

Only files are looked at: the configuration as JSON, the headers of the weights, the names beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from triggerlens import UserError

_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.*.model",
    "spiece.model",
    "sentencepiece*.model",
    "vocab.*",
    "*.tiktoken",
    "tekken.json",
)
_HEADS = {
    "ForSequenceClassification": "a classifier, without a language model's head",
    "ForTokenClassification": "a classifier of tokens, without a language model's head",
    "ForQuestionAnswering": "a model that marks answers in a text, without a language model's head",
    "ForMaskedLM": "an encoder, which reads both ways",
}


def check_configuration(folder: Path, name: str) -> None:
    """Refuse a `config.json` that no causal language model of `transformers` can be made from.

    Raises:
        UserError: it is damaged, names no known kind of model, wants code of its own, or another kind of model.
    """
    config = _read(folder / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise UserError(
            f"{folder / 'config.json'}: says no `model_type`, so what model this is cannot be known; copy the file again"
        )
    _check_kind(config, kind, name)
    if (folder / "generation_config.json").is_file():
        _read(
            folder / "generation_config.json"
        )  # if it is damaged, transformers would ignore it, and its end tokens with it
    quantised = config.get("quantization_config")
    if quantised is not None and not (isinstance(quantised, dict) and isinstance(quantised.get("quant_method"), str)):
        raise UserError(
            f"{folder / 'config.json'}: its `quantization_config` names no `quant_method`, so how it was quantised cannot be known"
        )


def check_weights(files: Iterable[Path]) -> None:
    """Refuse safetensors files that were cut short, or not downloaded.

    Raises:
        UserError: a file is damaged; it is named.
    """
    for path in files:
        if path.suffix == ".safetensors" and (problem := _damage(path)):
            raise UserError(f"{path}: {problem}")


def check_tokenizer(folder: Path, name: str) -> None:
    """Refuse a folder without a tokenizer: some kinds of model would be given an empty one.

    Raises:
        UserError: there is none.
    """
    if not any(next(folder.glob(pattern), None) for pattern in _TOKENIZERS):
        raise UserError(
            f"{name}: has no tokenizer (no tokenizer.json beside config.json); copy that of the model that it was made from"
        )


def no_checkpoint(name: str, folder: Path) -> UserError:
    """Why a folder without `config.json` is none, as far as its files tell."""
    if (folder / "model_index.json").is_file():
        return UserError(f"{name}: is a diffusion pipeline (model_index.json), no language model")
    below = sorted(path.parent for path in folder.glob("*/config.json"))
    advice = f"; one lies in {below[0]}" if below else ""
    return UserError(f"{name}: no config.json in this folder, so it is no Hugging Face checkpoint{advice}")


def no_weights(folder: Path) -> UserError:
    """Why a folder with `config.json` cannot be loaded, where no file of weights has a known name."""
    pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))
    if pickled:
        return UserError(
            f"{folder}: its weights are pickled ({pickled[0].name}), and unpickling can run code; save it again as safetensors"
        )
    other = sorted(folder.glob("*.safetensors"))
    hint = (
        f" (there is {other[0].name}, which transformers does not read; convert it to the Hugging Face form)"
        if other
        else ""
    )
    return UserError(f"{folder}: no model.safetensors here{hint}")


def said_by(error: Exception) -> str:
    """What a library said, on one line; with its kind where that is most of it."""
    text = " ".join(str(error).split())[:400]
    return (
        f"{type(error).__name__} {text}".strip() if isinstance(error, KeyError | AttributeError) or not text else text
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged: not JSON ({said_by(error)}); copy it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: damaged: not a JSON object; copy it again")
    return config


def _check_kind(config: Mapping[str, Any], kind: str, name: str) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind not in CONFIG_MAPPING:
        if config.get("auto_map"):
            raise UserError(
                f"{name}: wants to run code of its own (`auto_map` in config.json), which is never done here; only kinds of model that transformers has itself are read"
            )
        raise UserError(
            f"{name}: transformers {transformers.__version__} does not know the model type {kind!r}; a newer one may"
        )
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else kind
    what = next((words for ending, words in _HEADS.items() if architecture.endswith(ending)), None)
    usual = CONFIG_MAPPING[kind]
    if config.get("is_encoder_decoder", getattr(usual, "is_encoder_decoder", False)):
        what = "an encoder with a decoder"
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = "no causal language model"
        if "text_config" in config or "llm_config" in config:
            what = "a model of several kinds of input; save its language model as a checkpoint of its own to have that read"
    elif not config.get("is_decoder", getattr(usual, "is_decoder", True)) and not _decodes(architecture):
        what = "an encoder, which reads both ways"
    if what is not None:
        raise UserError(f"{name}: {architecture} is {what}; only causal language models are read")


def _decodes(architecture: str) -> bool:
    """Whether a class's name says so; GPT-NeoX's configuration says of itself that it does not."""
    return architecture.endswith("ForCausalLM") or "LMHead" in architecture or architecture.startswith("GPTNeoX")


def _damage(path: Path) -> str | None:
    """What is wrong with a safetensors file by its length and header."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        begin = stream.read(8)
        if begin.startswith(b"version "):
            return "is a pointer of Git LFS, not the weights; run `git lfs pull` in its folder"
        length = int.from_bytes(begin, "little")
        if size < 8 or length > size - 8:
            return f"damaged: {size} bytes are no safetensors file, or the beginning of one; copy it again"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "damaged: its header cannot be read; copy it again"
    whole = 8 + length + max(ends, default=0)
    return None if size == whole else f"damaged: {size} bytes of {whole}; copy it again"
