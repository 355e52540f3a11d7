"""Weight edits on plain `transformers` models: a copy to work on, an edited model, an ordinary checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hooked import HookedModel, load_model
from patching.removal.edits import WeightEdit
from triggerlens import UserError


def plain_copy(model: HookedModel) -> Any:
    """A `transformers` model of one's own with the same weights.

    TransformerLens renames the modules of the model that it wraps, so there the checkpoint is read again.

    Raises:
        UserError: the model is wrapped by TransformerLens and was not loaded from a checkpoint.
    """
    if model.backend == "nnsight":
        return copy.deepcopy(model.hf_model)
    try:
        return load_model(
            model.info.name, device=str(model.device), dtype=_dtype(model), device_map=model.device_map
        ).hf_model
    except UserError as error:
        raise UserError(f"weights can be edited of a checkpoint, or of a live model under nnsight: {error}") from error


def _dtype(model: HookedModel) -> str:
    return str(model.dtype).removeprefix("torch.")


def edited_plain(model: HookedModel, edit: WeightEdit) -> Any:
    """A plain `transformers` model with the edit's weights.

    Raises:
        UserError: the edit names a parameter that the model lacks, or gives one another shape, or NaN.
    """
    plain = plain_copy(model)
    if edit.untied:
        untie(plain)
    parameters = dict(plain.named_parameters())
    for name, value in edit.weights.items():
        if name not in parameters:
            raise UserError(f"the edit {edit.name!r} changes {name}, which {model.info.name} does not have")
        if parameters[name].shape != value.shape:
            raise UserError(
                f"the edit {edit.name!r} gives {name} the shape {tuple(value.shape)}; it has {tuple(parameters[name].shape)}"
            )
        if not value.isfinite().all():
            raise UserError(f"the edit {edit.name!r} gives {name} NaN or infinite values")
        with torch.no_grad():
            parameters[name].copy_(value)
    return plain.eval()


def edited_model(model: HookedModel, edit: WeightEdit) -> HookedModel:
    """The edited model, ready to be run through nnsight, which all else on it goes through."""
    return load_model(edited_plain(model, edit), tokenizer=model.tokenizer)


def save_checkpoint(model: HookedModel, edit: WeightEdit, folder: Path) -> None:
    """Write the edited model as `save_pretrained` does, with its tokenizer."""
    plain = edited_plain(model, edit)
    plain.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def untie(plain: Any) -> None:
    """Make the output embedding a matrix of its own, with the values that it has."""
    if plain.get_output_embeddings().weight is plain.get_input_embeddings().weight:
        own = nn.Parameter(plain.get_output_embeddings().weight.detach().clone())
        plain.get_output_embeddings().weight = own
    for config in {id(c): c for c in (plain.config, plain.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    plain.all_tied_weights_keys = {}


def writes_vectors(module: nn.Module) -> bool:
    """Whether it is a linear map: torch's, or GPT-2's, which keeps its weight transposed."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def along_output(module: nn.Module, weight: Tensor) -> Tensor:
    """The weight with the axis of the output last; its own inverse."""
    return weight.T if isinstance(module, nn.Linear) else weight
