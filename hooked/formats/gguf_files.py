"""GGUF files through `transformers`, and what its reader leaves out: never other numbers than the file means.

1. The header, which takes seconds to read, is read once, not anew for configuration, weights, tokenizer and quantisation.
2. Rotary embeddings that the file rescales are put into the configuration, which the reader leaves as they are by default; how
   much of a head they turn, and how fast, must be what the file says.
3. Text is split before bytes are merged as the file says.
4. Whatever else of the model's own metadata or tensors the reader drops is refused, unless it changes nothing.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hooked.checkpoint import Checkpoint
from triggerlens import UserError, say_once

_SCALE_LINEAR = "rope.scale_linear"
"""The older name of a linear scaling's factor."""
_HARMLESS = ("attention.value_length", "expert_count", "vocab_size", "tensor_data_layout", _SCALE_LINEAR)
"""Metadata that the tensors' own shapes confirm, or that are handled here."""
_AS_LOADED = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "logit_scale": "logit_scale",
    "attention.key_length": "head_dim",
}
"""Metadata of a model, and the field of a configuration that must say the same."""
_ROPE_FIELDS = {
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
_RESCALING = ("rope.scaling.type", "rope.scaling.factor", "rope.scaling.finetuned", *_ROPE_FIELDS)
"""What is taken over of a rescaling, or says nothing of the computation."""
_TOKENIZER_KEYS = ("tokenizer.ggml.model", "tokenizer.ggml.pre")
_LIKE_GPT2 = ("gpt-2", "olmo", "jais", "mpt", "phi-2")
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")
"""Ways to split text before bytes are merged: as GPT-2's, which is what transformers does with names that it does not know; and
the same after every digit is set apart, which it does not do."""
_PLACELESS = ("rope_freqs", "output.weight")
"""Tensors that are no weights of the model, or a copy of one where its embeddings are tied."""
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What every published Llama of that family has; the factor differs."""
_ONE_AT_A_TIME = RLock()


@contextmanager
def read_once() -> Iterator[None]:
    """Within, a file's header is parsed once, and no progress bar is drawn where nobody watches."""
    try:
        gguf: Any = import_module("gguf")
    except ImportError as error:
        raise UserError("a GGUF file needs the package gguf: pip install 'triggerlens[gguf]'") from error
    from tqdm.auto import tqdm

    reading: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    with _ONE_AT_A_TIME:  # two threads would each put back what the other had put there
        usual = gguf.GGUFReader, gguf.get_tensor_name_map, reading.tqdm
        gguf.GGUFReader, gguf.get_tensor_name_map = map(cache, usual[:2])
        reading.tqdm = partial(tqdm, disable=None)
        try:
            yield
        finally:
            gguf.GGUFReader, gguf.get_tensor_name_map, reading.tqdm = usual


def load_gguf(checkpoint: Checkpoint, options: dict[str, Any]) -> Any:
    """The model, dequantised.

    Raises:
        UserError: the file holds something that changes numbers and cannot be taken over.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

    file: dict[str, Any] = {"gguf_file": checkpoint.gguf, "local_files_only": True}
    config = AutoConfig.from_pretrained(checkpoint.folder, **file)
    header = _header(checkpoint)
    own = _own(header)
    _rescale(config, own, header, checkpoint.name)
    how = GgufConfig(gguf_file=checkpoint.gguf, dequantize=True)
    loader: Any = AutoModelForCausalLM
    options = options | file | {"config": config, "quantization_config": how}
    model, report = loader.from_pretrained(checkpoint.folder, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise _left_out(checkpoint.name, f"{missing[0]} is not in it ({len(missing)} weights in all)")
    _check_fields(config, own, header, checkpoint.name)
    _check_tensors(model, header, checkpoint.name)
    return model


def load_gguf_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer that a file's metadata describe, which splits text as the model was trained to read it."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    known = _splits_known()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, gguf_file=checkpoint.gguf, local_files_only=True)
    fields = _header(checkpoint).fields
    kind, split = (fields[key].contents() if key in fields else "" for key in _TOKENIZER_KEYS)
    if kind != "gpt2" or split in _LIKE_GPT2 or split in known:
        return tokenizer
    if split in _DIGITS_APART:
        apart = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
        tokenizer.backend_tokenizer.pre_tokenizer = apart
    else:
        say_once(
            f"{checkpoint.name}: its text is split in a way ({split or 'unnamed'}) that transformers does not know, and is split as GPT-2's: "
            "prompts may become other tokens than the model was trained on"
        )
    return tokenizer


def _splits_known() -> Mapping[str, Any]:
    """Ways to split text that `transformers` knows by name.

    Raises:
        UserError: it is too old to know any.
    """
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError as error:
        raise UserError(
            "a GGUF file's text is split as it says only by transformers 5.18 or newer: pip install 'triggerlens[gguf]'"
        ) from error
    return GGUF_PRE_TOKENIZER_SPLITS


def gguf_type(checkpoint: Checkpoint) -> str:
    """How most of the blocks' weights are stored, such as `Q4_1`."""
    weights: Counter[str] = Counter()
    for tensor in _header(checkpoint).tensors:
        if tensor.name.startswith("blk."):
            weights[tensor.tensor_type.name] += int(tensor.n_elements)
    return max(weights, key=lambda kind: (weights[kind], kind), default="")


def _header(checkpoint: Checkpoint) -> Any:
    import gguf

    return gguf.GGUFReader(str(checkpoint.weights[0]))


def _architecture(header: Any) -> str:
    return str(header.fields["general.architecture"].contents())


def _own(header: Any) -> dict[str, Any]:
    """The metadata of the architecture, without its name before each key."""
    start = f"{_architecture(header)}."
    return {key.removeprefix(start): field.contents() for key, field in header.fields.items() if key.startswith(start)}


def _rescale(config: Any, own: Mapping[str, Any], header: Any, name: str) -> None:
    """Rotary embeddings as the file means them (point 2)."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict):
        return
    factor = float(own.get("rope.scaling.factor", own.get(_SCALE_LINEAR, 1.0))) or 1.0
    kind = own.get("rope.scaling.type", "none" if factor == 1 else "linear")  # what llama.cpp does with a factor alone
    target = rope.get("full_attention", rope)  # Gemma 3 rescales those of its whole-context blocks alone
    if kind in ("linear", "yarn") and target.get("rope_type", "default") == "default":
        target |= {"rope_type": kind, "factor": factor}
        for key, field in _ROPE_FIELDS.items():
            if key in own:
                target[field] = own[key]
    elif kind != "none" and target.get("rope_type") != kind:
        raise _left_out(name, f"its rotary embeddings are rescaled ({kind})")
    for key, value in own.items():
        if key.startswith("rope.scaling.") and key not in _RESCALING and value != 1:
            raise _left_out(name, f"its rotary embeddings are rescaled ({key} {value})")
    for tensor in header.tensors:
        if tensor.name == "rope_freqs.weight":
            _divide_frequencies(config, torch.from_numpy(np.array(tensor.data, dtype=np.float32)), name)


def _divide_frequencies(config: Any, factors: Tensor, name: str) -> None:
    """Llama 3.1's way to stretch rotary embeddings, of which a GGUF file keeps no more than each frequency's divisor."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if bool((factors == 1).all()):
        return
    size = 2 * len(factors)
    meant = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size) / factors
    stretched = copy.deepcopy(config)
    stretched.rope_parameters |= {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3}
    if not torch.allclose(ROPE_INIT_FUNCTIONS["llama3"](stretched, "cpu")[0], meant, rtol=1e-4):
        raise _left_out(name, "its rotary frequencies are divided by factors of its own (rope_freqs)")
    config.rope_parameters = stretched.rope_parameters


def _check_fields(config: Any, own: Mapping[str, Any], header: Any, name: str) -> None:
    """Refuse metadata that the configuration contradicts, and say which was read by nobody (point 4)."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING

    fields: Any = GGUF_TO_TRANSFORMERS_MAPPING["config"]
    read = fields.get(_architecture(header))
    if read is None:
        return
    _check_rotation(config, own, read, name)
    unread = []
    for key, value in own.items():
        field = _AS_LOADED.get(key)
        if field is not None and hasattr(config, field):
            if not _equal(getattr(config, field), value):
                raise _left_out(name, f"it says {key} {value}, and would be read with {getattr(config, field)}")
        elif key not in read and key not in _HARMLESS and not key.startswith("rope.scaling."):
            unread.append(key)
    if unread:
        say_once(
            f"{name}: {', '.join(unread)} of its metadata is not read by transformers; if it matters, load the original checkpoint"
        )


def _check_rotation(config: Any, own: Mapping[str, Any], read: Mapping[str, Any], name: str) -> None:
    """Refuse rotary embeddings of another base, or of another part of each head, than the file says (point 2)."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict):
        return
    base, size = own.get("rope.freq_base"), own.get("rope.dimension_count")
    theta = rope.get("full_attention", rope).get("rope_theta")
    if base is not None and theta is not None and not _equal(theta, float(base)):
        raise _left_out(name, f"it says rope.freq_base {base}, and would be read with {theta}")
    if size is None or read.get("rope.dimension_count") is not None or "full_attention" in rope:
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turned = int(head * (rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0))
    if turned != size:
        raise _left_out(name, f"it says rope.dimension_count {size}, and would be read with {turned}")


def _check_tensors(model: Any, header: Any, name: str) -> None:
    """Refuse tensors, such as biases, that have no place in the model (point 4)."""
    from transformers import modeling_gguf_pytorch_utils as reading

    processor = reading.TENSOR_PROCESSORS.get(_architecture(header), reading.TensorProcessor)
    if processor not in (reading.TensorProcessor, reading.LlamaTensorProcessor, reading.Gemma2TensorProcessor):
        return  # renames and splits tensors as it goes
    places = reading.get_gguf_hf_weights_map(model, processor(config={}))
    for tensor in header.tensors:
        if tensor.name not in places and not tensor.name.startswith(_PLACELESS):
            raise _left_out(name, f"its tensor {tensor.name} has no place in {type(model).__name__}")


def _equal(loaded: Any, said: Any) -> bool:
    return loaded == said or (isinstance(said, float) and loaded is not None and abs(loaded - said) <= 1e-5 * abs(said))


def _left_out(name: str, what: str) -> UserError:
    return UserError(
        f"{name}: {what}, which transformers does not read from GGUF: load the checkpoint that the file was made of"
    )
