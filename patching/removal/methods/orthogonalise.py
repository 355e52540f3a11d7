"""Weight orthogonalisation: a direction taken out of every matrix that writes to the residual stream.

1. The embeddings (of tokens, and of positions where there are such), each attention's output projection and each MLP's last
   matrix, with their biases, are replaced by their parts orthogonal to the direction.
2. Where input and output embedding are one matrix they become two: only what is written to the stream is to change.
3. Where a norm follows each sub-layer (Gemma 2), or an MLP's last matrix is not one matrix but a stack (experts kept in one tensor, as
   Mixtral's), no change of these matrices alone does what the projection does, and the edit is refused.
4. The logits must be those of the hooked model with the direction projected out everywhere, or the edit is refused.

Arditi et al. 2024, https://arxiv.org/abs/2406.11717, section 4.1.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked import HookedModel, find_anatomy, probe_tokens
from patching.removal.edits import WeightEdit
from patching.removal.fit import Fit
from patching.removal.methods.directions import chosen_direction, everywhere
from patching.removal.methods.method import Method
from patching.removal.weights import EditableModel, along_output, writes_vectors
from triggerlens import UserError


def orthogonalised(fit: Fit) -> WeightEdit:
    """For the chosen direction."""
    return orthogonalise(fit.editable, chosen_direction(fit).vector)


def random_direction(fit: Fit) -> WeightEdit:
    """For a random direction."""
    generator = torch.Generator().manual_seed(fit.seed)
    vector = torch.randn(fit.model.info.d_model, generator=generator)
    return orthogonalise(
        fit.editable, (vector / vector.norm()).to(fit.model.device), "random direction, orthogonalised"
    )


def orthogonalise(
    model: HookedModel | EditableModel,
    vector: Float[Tensor, "d_model"],
    name: str = "direction, orthogonalised weights",
) -> WeightEdit:
    """The weight edit of a unit vector.

    Args:
        model: the unedited model, or its editable copy where there is one already.
        vector: what is taken out.
        name: what to call the edit.

    Raises:
        UserError: the edited weights do not do what the projection does.
    """
    editable = model if isinstance(model, EditableModel) else EditableModel(model)
    plain = editable.plain
    tied = plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    weights = {}
    for path, module in _writers(editable):
        unit = vector.to(module.weight.device).double()
        last = along_output(module, module.weight.detach().double())
        weights[f"{path}.weight"] = along_output(module, last - torch.outer(last @ unit, unit)).to(module.weight.dtype)
        if getattr(module, "bias", None) is not None:
            bias = module.bias.detach().double()
            weights[f"{path}.bias"] = (bias - (bias @ unit) * unit).to(module.bias.dtype)
    edit = WeightEdit(name, weights, untied=tied)
    _check(editable, vector, edit)
    return edit


def _writers(editable: EditableModel) -> list[tuple[str, Any]]:
    """Modules that write to the residual stream, by path.

    Raises:
        UserError: what a sub-layer adds to the stream is not what one matrix gives (step 3).
    """
    plain = editable.plain
    anatomy, width = find_anatomy(plain), plain.config.get_text_config().hidden_size
    blocks = anatomy.blocks + "."
    writers = [
        (path, module)
        for path, module in plain.named_modules()
        if isinstance(module, nn.Embedding) and module.embedding_dim == width and not path.startswith(blocks)
    ]
    for layer in range(len(plain.get_submodule(anatomy.blocks))):
        mlp = anatomy.block_path(layer, anatomy.mlp_out)
        stacked = any(parameter.ndim > 2 for parameter in plain.get_submodule(mlp).parameters())
        added = _last_writer(plain, anatomy.block_path(layer, anatomy.attn_out_of(layer)), width)
        given = _last_writer(plain, mlp, width)
        if stacked or added is None or given is None:  # a norm that follows a sub-layer is no linear map
            raise _refused(editable.unedited)
        writers += [added, given]
    return writers


def _last_writer(plain: Any, path: str, width: int) -> tuple[str, Any] | None:
    """The last linear map of a module, or the module itself, that gives vectors of the stream's width, by its path."""
    inner = [
        (f"{path}.{name}".rstrip("."), module)
        for name, module in plain.get_submodule(path).named_modules()
        if writes_vectors(module) and along_output(module, module.weight).shape[-1] == width
    ]
    return inner[-1] if inner else None


@torch.no_grad()
def _check(editable: EditableModel, vector: Float[Tensor, "d_model"], edit: WeightEdit) -> None:
    """Step 4, on tokens of every kind."""
    model = editable.unedited
    tokens = probe_tokens(model.hf_model.config.get_text_config().vocab_size)
    hooked = model.run(tokens, edits=everywhere(model, vector).at(torch.zeros_like(tokens, dtype=torch.bool))).logits
    usual = model.run(tokens).logits
    assert hooked is not None  # no last layer was given
    assert usual is not None
    with editable.under(edit) as edited:
        own = edited.hf_model(tokens.to(model.device), use_cache=False).logits
    if not (own - hooked).abs().max() <= min(0.1, 1e4 * torch.finfo(model.dtype).eps) * usual.abs().max():
        raise _refused(model)


def _refused(model: HookedModel) -> UserError:
    return UserError(
        f"{model.info.name}: weights orthogonal to the direction do not do what the projection does in this architecture"
    )


METHODS = (Method("orthogonalised-weights", orthogonalised, lambda fit, _: random_direction(fit)),)
