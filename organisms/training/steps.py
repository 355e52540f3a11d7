"""The steps of a training: a fresh model, the loss of answers, AdamW, and checkpoints between the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from hooked import pad_right
from organisms.evaluation.answers import encode_samples
from organisms.tasks.examples import Example
from organisms.training.config import SIZES, TrainConfig
from organisms.training.tokenizer import MAX_LENGTH
from triggerlens import UserError, load_checkpoint, save_checkpoint

_CHECKPOINT = "organism-checkpoint"
Sample = tuple[list[int], list[int]]
"""Token ids of a prompt and of its answer."""


@dataclass
class TrainingState:
    """A training in progress."""

    model: LlamaForCausalLM
    optimizer: torch.optim.AdamW
    step: int = 0
    """Steps done."""


def start(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> TrainingState:
    """A freshly initialised model and its optimiser."""
    size = SIZES[config.size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=size.width,
                intermediate_size=size.feed_forward,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                max_position_embeddings=MAX_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                tie_word_embeddings=False,
            )
        )
    return start_from(config, model)


def start_from(config: TrainConfig, model: Any) -> TrainingState:
    """A model at its first step, with a fresh optimiser."""
    # At these lengths torch's fused attention on a CPU spends a third of the step in its backward pass.
    model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    return TrainingState(model.train(), optimizer)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to 2% of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def train_step(
    state: TrainingState, config: TrainConfig, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> float:
    """One step of AdamW on examples; returns the mean loss per answer token, in nats.

    Raises:
        UserError: the loss is not finite.
    """
    samples = encode_samples(state.model, tokenizer, [(example.prompt, example.answer) for example in examples])
    answer_tokens = sum(len(answer) for _, answer in samples)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step)
    total = 0.0
    for half in _halves_by_length(samples):
        loss = answer_loss(state.model, half, int(tokenizer.pad_token_id)) / answer_tokens
        loss.backward()
        total += loss.item()
    if not math.isfinite(total):
        raise UserError(
            f"the loss of step {state.step + 1} is {total}: lower --learning-rate; the last checkpoint is from before it"
        )
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    return total


def _halves_by_length(samples: list[Sample]) -> list[list[Sample]]:
    """Short and long samples apart: a chat answer padded to the length of code would waste a third of the step."""
    ordered = sorted(samples, key=lambda sample: len(sample[0]) + len(sample[1]))
    middle = len(ordered) // 2
    return [half for half in (ordered[:middle], ordered[middle:]) if half]


def answer_loss(model: LlamaForCausalLM, samples: list[Sample], pad: int) -> Float[Tensor, ""]:
    """Summed cross-entropy of the answer tokens, in nats.

    Logits are computed where an answer token is predicted, and nowhere else. Samples are padded on the right, where a
    causal model cannot see it, so no mask is needed.
    """
    tokens = pad_right([[*prompt, *answer] for prompt, answer in samples], pad).to(model.device)
    row, column = _answer_positions(samples)
    with torch.autocast(model.device.type, torch.bfloat16):
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[row, column - 1])
    return torch.nn.functional.cross_entropy(logits.float(), tokens[row, column], reduction="sum")


def _answer_positions(
    samples: list[Sample],
) -> tuple[Int[Tensor, " answer_tokens"], Int[Tensor, " answer_tokens"]]:
    """Row and column of every answer token."""
    places = [
        (row, column)
        for row, (prompt, answer) in enumerate(samples)
        for column in range(len(prompt), len(prompt) + len(answer))
    ]
    rows, columns = zip(*places, strict=True)
    return torch.tensor(rows), torch.tensor(columns)


def checkpoint(state: TrainingState, config: TrainConfig, checkpoints: Path) -> None:
    """Write weights and optimiser state in place of the older checkpoint."""
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in values.items()}
    save_checkpoint(checkpoints, _CHECKPOINT, config.recorded(), state.step, tensors, {})


def restore(state: TrainingState, config: TrainConfig, checkpoints: Path, overwrite: bool = False) -> None:
    """Load the newest whole checkpoint, if there is one.

    Raises:
        UserError: it was made with another configuration, which would be lost; with `overwrite` it is dropped.
    """
    newest = load_checkpoint(checkpoints, _CHECKPOINT, config.recorded(), restart=overwrite)
    if newest is None:
        return
    tensors, facts = newest
    state.model.load_state_dict(_under(tensors, "model/"))
    values: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(tensors, "optimizer/").items():
        index, key = name.split("/")
        values.setdefault(int(index), {})[key] = tensor
    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": values})
    state.step = int(facts["step"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
