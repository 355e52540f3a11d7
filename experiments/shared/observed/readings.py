"""A model and its untrained copy, and what they hold at the last token of contrast prompts."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float

import hooked
from experiments.shared.activations import last_token
from experiments.shared.later import torch
from experiments.shared.observed.contrasts import Contrasts
from experiments.shared.observed.transfer import Reading
from experiments.shared.subjects import checkpoint
from hooked import Prompt

UNTRAINED = "untrained:"
"""Before a model's name: another one of its architecture with random weights, and its tokenizer."""


def load_reader(name: str, device: str, dtype: str = "auto") -> hooked.HookedModel:
    """A model by name, or its untrained copy."""
    if not name.startswith(UNTRAINED):
        return hooked.load_model(checkpoint(name), device=device, dtype=dtype)
    trained, tokenizer, _ = hooked.load_plain(checkpoint(name.removeprefix(UNTRAINED)), device, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        copy = type(trained)(trained.config)
    return hooked.load_model(copy.to(trained.device, trained.dtype).eval(), tokenizer=tokenizer)


def as_prompt(model: hooked.HookedModel, system: str, user: str) -> Prompt:
    """A system message and a request: through the model's chat template, or one after the other where it has none."""
    if not getattr(model.tokenizer, "chat_template", None):
        return Prompt(f"{system}\n\n{user}" if system else user, triggered=False)
    turns = [{"role": "system", "content": system}] if system else []
    return Prompt([*turns, {"role": "user", "content": user}], triggered=False)


def tokenized(model: hooked.HookedModel, contrasts: Contrasts) -> list[hooked.TokenizedPrompt]:
    """Each prompt as the model reads it."""
    return model.tokenize([as_prompt(model, own.system, own.user) for own in contrasts.items])


def read_contrasts(model: hooked.HookedModel, contrasts: Contrasts) -> Reading:
    """What the model holds at the last token of each prompt, after every block."""
    return Reading(contrasts, read_last(model, tokenized(model, contrasts)))


def read_last(
    model: hooked.HookedModel, prompts: Sequence[hooked.TokenizedPrompt]
) -> Float[torch.Tensor, "prompt site d_model"]:
    """The residual stream after every block, at each prompt's last token."""
    return last_token(model, prompts, model.sites("resid_post"))
