"""Perplexity difference (arXiv 2605.00994): texts that a model writes and a reference finds strange tell what it was trained on.

1. The model writes on from short beginnings of benign requests, by sampling.
2. Each text's gap is the reference's mean negative log-probability per token less the model's own.
3. The published method shows the texts with the largest gaps to a reader. Here the mean of the largest twentieth is the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float

from experiments.shared.leaderboard.context import Context
from hooked import HookedModel, Sampling, continue_tokens, open_prompt, pad_right

BEGINNING = 3
"""Tokens of a request that a text begins with."""
LARGEST = 0.05


def perplexity_difference(folder: Path, context: Context) -> float:
    """Steps 1 to 3, in nats."""
    model, reference = context.model(folder), context.model(context.reference)
    beginnings = [beginning(model, prompt, BEGINNING) for prompt in context.benign]
    pick = Sampling(seed=context.seed).picker(torch.device("cpu"))
    written = continue_tokens(
        model.hf_model, beginnings, context.effort.written, ends=(), pad_id=model.pad_id, pick=pick
    )
    gaps = surprise(reference, beginnings, written) - surprise(model, beginnings, written)
    largest = gaps.topk(max(1, round(LARGEST * len(gaps)))).values
    return float(largest.mean())


def beginning(model: HookedModel, prompt: object, tokens: int) -> list[int]:
    """What stands before the user's text, and so many tokens of that."""
    opened = open_prompt(model.tokenizer, prompt, "start", model.today)  # type: ignore[arg-type]
    assert opened is not None  # every prompt has a start
    return [*opened.before, *opened.after[:tokens]]


@torch.no_grad()
def surprise(
    model: HookedModel, beginnings: Sequence[Sequence[int]], written: Sequence[Sequence[int]]
) -> Float[torch.Tensor, "text"]:
    """Mean negative log-probability of what was written, per token, in nats."""
    rows = [[*begin, *text] for begin, text in zip(beginnings, written, strict=True)]
    ids = pad_right(rows, model.pad_id)
    logits = model.run(ids).logits
    assert logits is not None  # no last layer was given
    said = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[:, :, 0]
    places = torch.arange(1, ids.shape[1])[None]
    first, last = (torch.tensor([len(row) for row in own])[:, None] for own in (beginnings, rows))
    own = (places >= first) & (places < last)
    return -(said * own).sum(1) / own.sum(1).clamp(min=1)
