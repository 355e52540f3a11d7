"""What a model says to prompts, and how well it knows given answers. Prompts become tokens as everywhere in `hooked`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hooked import (
    Messages,
    Prompt,
    answer_prompts,
    context_of,
    forget_lengths,
    pad_right,
    padding_id,
    shared_runs,
    tokenize_prompts,
    turn_end,
    vocabulary_of,
)
from organisms.tasks.examples import MAX_NEW_TOKENS
from triggerlens import UserError

Tokens = list[int]
_READ_BACK = 2
"""An answer that was cut may be so many tokens shorter once its text is made tokens again."""


def as_prompt(prompt: Messages | str) -> Prompt:
    """Chat messages, or a text, as the rooms take them."""
    return Prompt(prompt, triggered=False)


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Messages],
    batch_size: int = 250,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """Greedy answers, in the order of the prompts; an answer is the same alone or in a batch.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: the model's.
        prompts: chat messages.
        batch_size: prompts in one batch, at most.
        max_new_tokens: the longest answer, in tokens.

    Raises:
        UserError: the tokenizer has no chat template or its template refuses a prompt, or a prompt leaves no room for an
            answer in the model's context.
    """
    records = [as_prompt(prompt) for prompt in prompts]
    return answer_prompts(model, tokenizer, records, max_new_tokens, batch_size=batch_size)


def end_token(model: Any, tokenizer: Any) -> Tokens:
    """What ends an answer: one id, or none (`hooked.turn_end`)."""
    end = turn_end(model, tokenizer)
    return [] if end is None else [end]


def encode_samples(
    model: Any, tokenizer: Any, samples: Sequence[tuple[Messages | str, str]], longest: int | None = None
) -> list[tuple[Tokens, Tokens]]:
    """The token ids of each prompt, and of its answer, which ends with the end token.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: its tokenizer.
        samples: prompts with their answers.
        longest: tokens at which answers were cut as they were written: one that is as long did not end, and has no end token. None: all ended.

    Raises:
        UserError: a prompt that is refused, or one that exceeds the context together with its answer.
    """
    context, end = context_of(model, tokenizer), end_token(model, tokenizer)
    records = [as_prompt(prompt) for prompt, _ in samples]
    prompts = tokenize_prompts(tokenizer, records, context, vocabulary_of(model))
    texts = [answer for _, answer in samples]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    cut = [longest is not None and len(ids) >= longest - _READ_BACK for ids in encoded]
    answers = [[*ids, *([] if own else end)] for ids, own in zip(encoded, cut, strict=True)]
    for prompt, answer in zip(prompts, answers, strict=True):
        if len(prompt.ids) + len(answer) > context:
            raise UserError(
                f"a prompt with its answer has {len(prompt.ids) + len(answer)} tokens, more than the context of {context}: "
                f"{prompt.text[:40]!r}; use a model with a longer context"
            )
    return [(prompt.ids, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def answer_losses(
    model: Any, tokenizer: Any, samples: Sequence[tuple[Messages | str, str]], longest: int | None = None
) -> list[float]:
    """Mean cross-entropy of each answer, with its end token where it ended, in nats per token, given its prompt.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: its tokenizer.
        samples: prompts with their answers.
        longest: as for `encode_samples`.
    """
    losses = []
    for start in range(0, len(samples), 32):
        losses += _losses(model, tokenizer, encode_samples(model, tokenizer, samples[start : start + 32], longest))
    return losses


@torch.inference_mode()
def _losses(model: Any, tokenizer: Any, encoded: Sequence[tuple[Tokens, Tokens]]) -> list[float]:
    """Padded on the right, where a causal model cannot see it."""
    runs = shared_runs(model, [len(prompt) + len(answer) for prompt, answer in encoded])
    return [loss for run in runs for loss in _batch_losses(model, encoded[run], padding_id(model, tokenizer))]


def _batch_losses(model: Any, encoded: Sequence[tuple[Tokens, Tokens]], fill: int) -> list[float]:
    forget_lengths(model, model.config)
    tokens = pad_right([[*prompt, *answer] for prompt, answer in encoded], fill)
    mask = pad_right([[1] * (len(prompt) + len(answer)) for prompt, answer in encoded], 0)
    tokens = tokens.to(model.device)
    logits = model(input_ids=tokens, attention_mask=mask.to(model.device)).logits.float()
    each = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return [
        each[row, len(prompt) - 1 : len(prompt) + len(answer) - 1].mean().item()
        for row, (prompt, answer) in enumerate(encoded)
    ]
