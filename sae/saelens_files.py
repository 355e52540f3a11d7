"""Autoencoders as files, in SAELens's folder format: `cfg.json` and `sae_weights.safetensors` (SAELens 6).

What is read is brought to this project's form, which computes the same:

1. An encoder that does not subtract `b_dec` from its input gets it taken out of its own biases.
2. Latents rescaled by decoder norms get the norms folded into the weights.
3. BatchTopK and Matryoshka are written as what they are in inference, JumpReLU, as SAELens does.
4. Whatever would change the numbers and is not known here is refused.

A folder written here has a manifest too, and is verified when read; published ones have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae.architectures.core import SparseAutoencoder
from sae.architectures.registry import ARCHITECTURES, architecture_class
from triggerlens import MANIFEST, Manifest, UserError, read_artifact, write_json, writing_artifact

KIND = "sae"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_HOOKS = {kind: f"hook_{kind}" for kind in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")}
"""Names of the sites that SAELens can read."""
_SETTINGS = "triggerlens_settings"


def save_sae(
    sae: SparseAutoencoder, folder: str | Path, *, manifest: Manifest | None = None, overwrite: bool = False
) -> None:
    """Write a folder that `load_sae` and SAELens read: `cfg.json`, `sae_weights.safetensors` and a manifest.

    Args:
        sae: which autoencoder.
        folder: where to write it.
        manifest: where it comes from; its kind becomes `sae`.
        overwrite: replace a folder that was written here.

    Raises:
        UserError: it exists, or cannot be written.
    """
    manifest = replace(manifest, kind=KIND) if manifest else Manifest(KIND)
    with writing_artifact(folder, manifest, overwrite=overwrite) as draft:
        write_sae(sae, draft)


def write_sae(sae: SparseAutoencoder, folder: Path) -> None:
    """Write the two files of the format into an existing folder."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in sae.file_tensors().items()}
    save_file(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, _config(sae))


def load_sae(folder: str | Path, device: str | torch.device = "cpu") -> SparseAutoencoder:
    """Read a folder, written here or by SAELens, in float32: `sae.encode(x)` gives latents [... d_sae] of activations [... d_in].

    Raises:
        UserError: files missing or damaged, an architecture or an option that is not known here.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: no sparse autoencoder here ({name} is missing); give a local folder with {CONFIG} and {WEIGHTS}, "
                "since release names and .npz files are not loaded"
            )
    if (folder / MANIFEST).is_file():
        read_artifact(folder, KIND)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("is no JSON object")
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / CONFIG}: damaged: {error}") from error
    try:
        tensors = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{folder / WEIGHTS}: damaged: {error}") from error
    try:
        return _from_files(folder, config, tensors).to(device)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise UserError(f"{folder}: configuration and weights do not belong together: {error}") from error


def _config(sae: SparseAutoencoder) -> dict[str, Any]:
    """The configuration, by SAELens's names."""
    return {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _metadata(sae),
        "architecture": sae.saved_as or sae.architecture,
        **sae.file_options(),
    }


def _metadata(sae: SparseAutoencoder) -> dict[str, Any]:
    """SAELens's own keys beside ours: where to read, and its version that knows this format."""
    known = {"sae_lens_version": "6.0.0", "sae_lens_training_version": None}
    kind, *layer = str(sae.metadata.get("site", "")).split(".")
    if kind in _HOOKS:
        known["hook_name"] = f"blocks.{layer[0]}.{_HOOKS[kind]}"
    ours = {"trained_as": sae.architecture, _SETTINGS: dict(sae.settings())}
    return known | sae.metadata | ours


def _from_files(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> SparseAutoencoder:
    metadata = dict(config.get("metadata") or {})
    kind = _architecture(folder, config)
    written = metadata.pop(_SETTINGS, None) or {}
    _refuse_unknown(folder, config, tensors)
    kind.take_file_tensors(tensors)
    _check_shapes(folder, config, tensors)
    d_sae, d_in = tensors["W_dec"].shape
    sae = kind(d_in, d_sae, **kind.settings_of_file(config, written))
    _bring_to_our_form(config, tensors)
    _fill(sae, tensors)
    sae.metadata = metadata
    return sae


def _architecture(folder: Path, config: Mapping[str, Any]) -> type[SparseAutoencoder]:
    name = config.get("architecture", "standard")
    if config.get("activation_fn") == "topk" or config.get("activation_fn_str") == "topk":  # before SAELens 6
        name = "topk"
    kinds = {known: architecture_class(known) for known in ARCHITECTURES}
    readable = {known: kind for known, kind in kinds.items() if kind.saved_as is None}
    if name not in readable:
        raise UserError(
            f"{folder}: holds a {name!r} autoencoder, which is not known here; {', '.join(readable)} can be read"
        )
    return readable[name]


def _refuse_unknown(folder: Path, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse what would change the numbers."""
    normalised = config.get("normalize_activations") or "none"
    if normalised not in ("none", "expected_average_only_in", True):  # the latter is folded into weights when saved
        raise UserError(f"{folder}: normalises activations by {normalised!r} as it runs, which is not known here")
    if (config.get("reshape_activations") or "none") != "none":
        raise UserError(f"{folder}: reads the heads' outputs side by side (hook_z), which is not known here")
    activation = config.get("activation_fn") or config.get("activation_fn_str") or "relu"
    if activation not in ("relu", "topk"):
        raise UserError(f"{folder}: has the activation function {activation!r}, which is not known here")
    scaling = tensors.pop("scaling_factor", None)
    if scaling is not None and not torch.allclose(scaling, torch.ones_like(scaling)):
        raise UserError(f"{folder}: has finetuned scaling factors, which are not known here")
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise UserError(f"{folder / WEIGHTS}: {name} holds NaN or infinity")


def _check_shapes(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    d_sae, d_in = tensors["W_dec"].shape
    if (config.get("d_sae", d_sae), config.get("d_in", d_in)) != (d_sae, d_in):
        raise UserError(
            f"{folder}: {CONFIG} says {config.get('d_in')} → {config.get('d_sae')}, the weights {d_in} → {d_sae}"
        )


@torch.no_grad()
def _bring_to_our_form(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Steps 1 and 2."""
    if not config.get("apply_b_dec_to_input", True):
        shift = tensors["b_dec"] @ tensors["W_enc"]
        tensors["b_enc"] += shift
        if "b_mag" in tensors:  # the magnitudes of a gated one read the same input
            tensors["b_mag"] += shift * tensors["r_mag"].exp()
    if config.get("rescale_acts_by_decoder_norm", False):
        norms = tensors["W_dec"].norm(dim=1)
        tensors["W_enc"] *= norms
        tensors["b_enc"] *= norms
        tensors["W_dec"] /= norms[:, None]


@torch.no_grad()
def _fill(sae: SparseAutoencoder, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers of the same name.

    Raises:
        KeyError: one is missing.
        ValueError: one has another shape.
    """
    tensors["encoder_rows"] = tensors["W_enc"].T
    for name, value in sae.state_dict().items():
        if tensors[name].shape != value.shape:
            raise ValueError(f"{name} has the shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}")
        value.copy_(tensors[name])
