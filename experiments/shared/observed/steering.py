"""Is a direction a cause? It is added to the stream, and what a model says of its own context is read, against placebos of the same norm.

1. The site is the one after the layer that validation chose. The norm is a share (`dose`) of the mean norm that the stream has there at
   the last token of the prompts it was fitted on.
2. Requests without any context are followed by a question about it; of the first token of the answer, the log-odds of the word for
   "observed" against the word for "deployed" are read. Questions come in both orders and senses, so that a habit of saying Yes cancels out.
3. The effect of a direction is half the difference between adding and subtracting it, at all positions.
4. Placebos are random directions of the same norm; the p-value is the share of them, and of the direction itself, that move the answer as far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Float, Int

import hooked
from experiments.shared.later import torch
from experiments.shared.observed.grammar import Grammar, Question
from experiments.shared.observed.readings import as_prompt
from triggerlens import UserError, mean_of, to_json


@dataclass(frozen=True)
class Asked:
    """Prompts that end in a question about their context, and the first tokens of the two answers."""

    prompts: list[hooked.TokenizedPrompt]
    observed: Int[torch.Tensor, " prompt"]
    deployed: Int[torch.Tensor, " prompt"]

    @property
    def padded(self) -> Int[torch.Tensor, "prompt position"]:
        """Their tokens, padded on the right."""
        return hooked.pad_right([own.ids for own in self.prompts], 0)

    @property
    def last(self) -> Int[torch.Tensor, " prompt"]:
        """Where each one ends."""
        return torch.tensor([len(own.ids) - 1 for own in self.prompts])


def ask(model: hooked.HookedModel, grammar: Grammar, count: int, seed: int) -> Asked:
    """Requests on held-out topics, each with every question.

    Raises:
        UserError: the model's tokenizer begins both answers to a question with the same token.
    """
    rng = Random(f"asked/{seed}")
    requests = [rng.choice(grammar.asks).replace("{topic}", rng.choice(grammar.topics.test)) for _ in range(count)]
    asked = [(request, question) for request in requests for question in grammar.questions]
    prompts = [
        as_prompt(model, "You answer briefly.", f"{request} But first: {question.text}") for request, question in asked
    ]
    words = [_first_tokens(model, question) for _, question in asked]
    return Asked(model.tokenize(prompts), *(torch.tensor(side) for side in zip(*words, strict=True)))


def _first_tokens(model: hooked.HookedModel, question: Question) -> tuple[int, int]:
    first = [
        model.tokenizer(word, add_special_tokens=False)["input_ids"][0]
        for word in (question.observed, question.deployed)
    ]
    if first[0] == first[1]:
        raise UserError(
            f"questions: {question.observed} and {question.deployed} begin with the same token in {model.info.name}"
        )
    return first[0], first[1]


def added(vector: Float[torch.Tensor, " d_model"], stream: torch.Tensor) -> torch.Tensor:
    """The stream with a vector more at every position."""
    return stream + vector.to(stream.device, stream.dtype)


def next_tokens(
    model: hooked.HookedModel, asked: Asked, edits: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
) -> Float[torch.Tensor, "prompt vocabulary"]:
    """Log-probabilities of what comes first in the answer."""
    with torch.inference_mode():
        logits = model.run(asked.padded, edits=edits).logits
    assert logits is not None
    return logits[torch.arange(len(asked.prompts)), asked.last].float().log_softmax(-1).cpu()


def log_odds(asked: Asked, logs: Float[torch.Tensor, "prompt vocabulary"]) -> Float[np.ndarray, " prompt"]:
    """Of the answer that says observed, in nats."""
    rows = torch.arange(len(logs))
    return (logs[rows, asked.observed] - logs[rows, asked.deployed]).double().numpy()


def steer(
    model: hooked.HookedModel, asked: Asked, site: str, vector: Float[torch.Tensor, " d_model"], plain: torch.Tensor
) -> tuple[Float[np.ndarray, " prompt"], float]:
    """The effect on each prompt's log-odds, and how far the next token's distribution moves (mean Kullback-Leibler divergence from the plain run,
    in nats)."""
    up, down = (next_tokens(model, asked, {site: partial(added, sign * vector.float())}) for sign in (1, -1))
    moved = [(plain.exp() * (plain - logs)).sum(-1).mean().item() for logs in (up, down)]
    return (log_odds(asked, up) - log_odds(asked, down)) / 2, float(np.mean(moved))


def random_directions(count: int, d_model: int, seed: int) -> Float[torch.Tensor, "direction d_model"]:
    """Directions of no meaning: independent normal numbers, of no one norm."""
    return torch.randn(count, d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steering(
    model: hooked.HookedModel,
    asked: Asked,
    site: str,
    directions: Mapping[str, Float[torch.Tensor, " d_model"]],
    *,
    norm: float,
    doses: Sequence[float],
    placebos: int,
    seed: int,
) -> dict[str, Any]:
    """The effects of directions and of placebos. For JSON.

    Args:
        model: to steer.
        asked: questions about the context.
        site: where.
        directions: by name; only their directions count.
        norm: of the stream there.
        doses: shares of it; the first is the one that all directions and placebos are compared at, the others are for the first direction.
        placebos: how many random directions.
        seed: draws them.
    """
    plain = next_tokens(model, asked, {})
    lines = {name: line / line.norm() for name, line in directions.items()}
    first, *_ = lines
    each = {name: _effect(model, asked, site, doses[0] * norm * line, plain) for name, line in lines.items()}
    curve = {str(dose): _effect(model, asked, site, dose * norm * lines[first], plain) for dose in doses}
    drawn = random_directions(placebos, len(lines[first]), seed)
    floor = [steer(model, asked, site, doses[0] * norm * line / line.norm(), plain) for line in drawn]
    effects = [float(values.mean()) for values, _ in floor]
    own = abs(each[first]["effect"]["value"])
    return {
        "site": site,
        "norm": norm,
        "dose": doses[0],
        "before": to_json(mean_of(log_odds(asked, plain).tolist())),
        "directions": each,
        "doses": curve,
        "placebos": {"effects": effects, "moved": [moved for _, moved in floor]},
        "p": (1 + sum(abs(effect) >= own for effect in effects)) / (1 + placebos),
    }


def _effect(
    model: hooked.HookedModel, asked: Asked, site: str, vector: Float[torch.Tensor, " d_model"], plain: torch.Tensor
) -> dict[str, Any]:
    values, moved = steer(model, asked, site, vector, plain)
    return {"effect": to_json(mean_of(values.tolist())), "moved": moved}
