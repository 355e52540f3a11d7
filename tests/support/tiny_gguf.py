"""A tiny GGUF file made of a checkpoint folder, in the layout of llama.cpp's converter."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import transformers

_KINDS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}


def write_gguf(
    folder: Path,
    path: Path,
    *,
    quantisation: str = "F32",
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    pre: str = "gpt-2",
) -> Path:
    """Write a Llama or Qwen 2 checkpoint as GGUF.

    Args:
        folder: with model and tokenizer, as `save_pretrained` leaves them.
        path: file to write.
        quantisation: of the matrices, such as `F32`, `F16` or `Q8_0`; vectors and rows that do not fill blocks stay in float32.
        metadata: further numbers, flags and strings, such as `llama.rope.scaling.factor`.
        tensors: further tensors by name.
        pre: the name of the way in which text is split before byte pairs are merged.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    _write_config(writer, config)
    _write_tokenizer(writer, transformers.AutoTokenizer.from_pretrained(folder), pre)
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in (metadata or {}).items():
        adders[type(value)](key, value)
    names = gguf.get_tensor_name_map(_KINDS[config.model_type], config.num_hidden_layers)
    kind = gguf.GGMLQuantizationType[quantisation]
    for name, parameter in model.named_parameters():
        values = _as_llama_cpp_has_it(name, parameter.detach().float().numpy(), config)
        own = kind if values.ndim > 1 and values.shape[-1] % 32 == 0 else gguf.GGMLQuantizationType.F32
        stem, suffix = name.rsplit(".", 1)
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", gguf.quants.quantize(values, own), raw_dtype=own)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_config(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, pre: str) -> None:
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    control = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in control else 1 for token in vocabulary])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _as_llama_cpp_has_it(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """Llama's queries and keys with the two halves of each head interleaved, as llama.cpp rotates them."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((number for part, number in heads.items() if part in name), None)
    if count is None or config.model_type != "llama":
        return values
    halves = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
