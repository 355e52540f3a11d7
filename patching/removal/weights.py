"""Weight edits on plain `transformers` models: put in and taken out again, written as a checkpoint, and read back from it.

A model is copied, hashed and checked once, not once an edit: an edit is its tensors, and they are copied in and out.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hooked import HookedModel, continue_tokens, load_model, load_plain, save_plain, state_sha256
from patching.removal.edits import NotFinite, WeightEdit
from patching.removal.pairs import MarkedPrompt
from triggerlens import UserError


class EditableModel:
    """One copy of a model, made when it is first needed, whose weights can be changed and put back."""

    def __init__(self, model: HookedModel):
        """Of an unedited model, which is left as it is."""
        self.unedited = model

    @cached_property
    def hooked(self) -> HookedModel:
        """The copy, run through nnsight, which leaves the names of its parameters alone; adapters are merged in it.

        Raises:
            UserError: adapters that cannot be merged; or the model is wrapped by TransformerLens, which renames modules, and there is no checkpoint of its
                weights to read again.
        """
        model = self.unedited
        if model.backend == "nnsight":
            own = _merged(model) if _has_adapters(model) else copy.deepcopy(model.hf_model)
            return load_model(own, tokenizer=model.tokenizer, today=model.today)
        try:
            return _read_again(model)
        except UserError as error:
            raise UserError(
                f"weights can be edited of a checkpoint, or of a live model under nnsight: {error}"
            ) from error

    @property
    def plain(self) -> Any:
        """The copy as a `transformers` model, for what needs its modules and nothing else."""
        return self.hooked.hf_model

    @cached_property
    def original(self) -> Mapping[str, Tensor]:
        """The unedited value of each parameter, by its name in the plain model; not to be changed."""
        same = self.unedited.backend == "nnsight" and not _has_adapters(self.unedited)
        named = self.unedited.hf_model if same else copy.deepcopy(self.plain)
        return {name: value.detach() for name, value in named.named_parameters(remove_duplicate=False)}

    @contextmanager
    def under(self, edit: WeightEdit | None = None) -> Iterator[HookedModel]:
        """The copy under an edit, or as it was; at the end every weight is put back, whatever was done to it meanwhile.

        Raises:
            UserError: the edit names a parameter that the model lacks, or gives one another shape, or NaN.
        """
        _ = self.original  # known before anything is changed
        retie = _tying(self.plain)
        try:
            if edit is not None:
                _put_in(self.plain, edit, self.unedited.info.name)
            yield self.hooked
        finally:
            retie()
            with torch.no_grad():
                for name, parameter in self.plain.named_parameters(remove_duplicate=False):
                    parameter.requires_grad_(False).copy_(self.original[name])
                    parameter.grad = None


def _read_again(model: HookedModel) -> HookedModel:
    """The checkpoint that a model is named after, through nnsight.

    Raises:
        UserError: it cannot be read, or has not the model's weights: they were changed in memory, or are of another revision.
    """
    own = load_model(
        model.info.name,
        tokenizer=model.tokenizer,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        device_map=model.device_map,
        base=model.base,
        today=model.today,
    )
    # A live model is named by its tensors, a checkpoint by its files.
    weights = state_sha256(own.hf_model) if model.info.live else own.info.weights_sha256
    if weights != model.identity()["model"]["weights"]:
        raise UserError(f"{model.info.name} as it is saved has other weights than the model in memory")
    return own


def _has_adapters(model: HookedModel) -> bool:
    """Whether PEFT's layers stand in the place of the model's own, whose weights then have other names."""
    return bool(model.identity()["model"]["adapters"])


def _merged(model: HookedModel) -> Any:
    """A plain model of its own with the adapters merged, by way of a checkpoint.

    Raises:
        UserError: such a model cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_plain(model.hf_model, model.tokenizer, folder)
        dtype = str(model.dtype).removeprefix("torch.")
        plain, _, _ = load_plain(folder, str(model.device), dtype, model.device_map)
    attention = model.hf_model.config.get_text_config()._attn_implementation
    plain.set_attn_implementation(attention)
    return plain


def _put_in(plain: Any, edit: WeightEdit, name_of_model: str) -> None:
    if edit.untied:
        untie(plain)
    parameters = dict(plain.named_parameters())
    for name, value in edit.weights.items():
        if name not in parameters:
            raise UserError(f"the edit {edit.name!r} changes {name}, which {name_of_model} does not have")
        if parameters[name].shape != value.shape:
            raise UserError(
                f"the edit {edit.name!r} gives {name} the shape {tuple(value.shape)}; it has {tuple(parameters[name].shape)}"
            )
        if not value.isfinite().all():
            raise NotFinite(f"the edit {edit.name!r} gives {name} NaN or infinite values")
        with torch.no_grad():
            parameters[name].copy_(value)


def edited_model(model: HookedModel, edit: WeightEdit) -> HookedModel:
    """A model of its own with the edit's weights, to keep.

    Args:
        model: the unedited model, which is left as it is.
        edit: the new values of its parameters.

    Returns:
        The edited copy, which runs through nnsight.

    Raises:
        UserError: as `EditableModel.under`.
    """
    editable = EditableModel(model)
    _put_in(editable.plain, edit, model.info.name)
    return load_model(editable.plain, tokenizer=model.tokenizer, today=model.today)


def save_edited(model: HookedModel | EditableModel, edit: WeightEdit, folder: Path) -> None:
    """Write the edited model as an ordinary checkpoint, with its tokenizer (`hooked.save_plain`).

    Args:
        model: the unedited model, or its editable copy where there is one already.
        edit: the new values of its parameters.
        folder: made where it does not exist.

    Raises:
        UserError: as `EditableModel.under`.
    """
    editable = model if isinstance(model, EditableModel) else EditableModel(model)
    with editable.under(edit) as edited:
        save_plain(edited.hf_model, edited.tokenizer, folder)


def plain_answers(
    folder: Path, model: HookedModel, prompts: Sequence[MarkedPrompt], new_tokens: int, batch_size: int
) -> list[tuple[int, ...]]:
    """Greedy answers of a saved checkpoint, loaded by `transformers` alone, with no hook and no edit in it."""
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    places = model.device_map or {"": model.device}
    plain = loader.from_pretrained(folder, dtype=model.dtype, use_safetensors=True, device_map=places).eval()
    answers: list[tuple[int, ...]] = []
    for start in range(0, len(prompts), batch_size):
        ids = [prompt.ids for prompt in prompts[start : start + batch_size]]
        with torch.inference_mode():
            new = continue_tokens(plain, ids, new_tokens, ends=model.end_ids, pad_id=model.pad_id)
        answers += map(tuple, new)
    return answers


def untie(plain: Any) -> None:
    """Make the output embedding a matrix of its own, with the values that it has."""
    if plain.get_output_embeddings().weight is plain.get_input_embeddings().weight:
        own = nn.Parameter(plain.get_output_embeddings().weight.detach().clone())
        plain.get_output_embeddings().weight = own
    for config in _configs(plain):
        config.tie_word_embeddings = False
    plain.all_tied_weights_keys = {}


def _tying(plain: Any) -> Callable[[], None]:
    """A function that ties the embeddings again as they are tied now."""
    weight = plain.get_output_embeddings().weight
    flags = [(config, getattr(config, "tie_word_embeddings", False)) for config in _configs(plain)]
    keys = getattr(plain, "all_tied_weights_keys", {})

    def retie() -> None:
        plain.get_output_embeddings().weight = weight
        plain.all_tied_weights_keys = keys
        for config, flag in flags:
            config.tie_word_embeddings = flag

    return retie


def _configs(plain: Any) -> list[Any]:
    """The model's configuration and, of a model with more than text, that of its text part."""
    return list({id(config): config for config in (plain.config, plain.config.get_text_config())}.values())


def writes_vectors(module: nn.Module) -> bool:
    """Whether it is a linear map: torch's, or GPT-2's, which keeps its weight transposed."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def along_output(module: nn.Module, weight: Tensor) -> Tensor:
    """The weight with the axis of the output last; its own inverse."""
    return weight.T if isinstance(module, nn.Linear) else weight
