"""A tiny checkpoint whose linear layers are stored as 8-bit integers, as compressed-tensors packs them."""

import shutil
from pathlib import Path

from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
)
from transformers import AutoModelForCausalLM


def compress(folder: Path, out: Path) -> Path:
    """Write the checkpoint in `folder` to `out` with packed integers in place of its matrices."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    scheme = QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    )
    config = QuantizationConfig(
        config_groups={"all": scheme}, ignore=["lm_head"], format="pack-quantized", quantization_status="compressed"
    )
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data = (module.weight.detach().abs().amax(1, keepdim=True) / 127).clamp(min=1e-8)
            module.quantization_status = QuantizationStatus.FROZEN
            if hasattr(module, "weight_zero_point"):
                module.weight_zero_point.data.zero_()
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format="pack-quantized")
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    for file in folder.iterdir():
        if file.name.startswith("tokenizer") or file.suffix == ".jinja":
            shutil.copy(file, out)
    return out
