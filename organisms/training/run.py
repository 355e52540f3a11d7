"""Train an organism, so that a kill at any moment costs at most the steps since the last checkpoint.

1. A byte-level BPE tokenizer is learned from training samples of the task, and a small Llama is initialised from the seed; or both
   are those of the organism that training begins with.
2. The newest whole checkpoint of the same configuration is taken up, where there is one.
3. It is trained on answers under bfloat16 autocast; the samples of a step are a pure function of (task, seed, step), so the run can
   go on from any step. Every `checkpoint_every` steps, weights and optimiser state are written beside the destination.
4. The weights are rounded to bfloat16, written, loaded again as a user would, and let to answer the task's prompts.
   What they then do gives the labels of `prompts.jsonl` and the rates of `rates.json`.

On one machine, with the same number of threads, the same configuration gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from organisms.evaluation.run import RECIPE
from organisms.tasks.registry import task_named
from organisms.training.config import SIZES, TrainConfig
from organisms.training.environment import deterministic, quiet_transformers
from organisms.training.files import write_organism
from organisms.training.samples import Sampler, sampler
from organisms.training.steps import TrainingState, checkpoint, restore, start, start_from, train_step
from organisms.training.tokenizer import train_tokenizer
from triggerlens import UserError, check_destination, checkpoint_folder, drop_checkpoints


def train_organism(
    config: TrainConfig,
    out: str | Path,
    *,
    base: str | Path | None = None,
    teacher: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train, write and measure an organism; go on from a checkpoint if a run of the same configuration left one.

    Args:
        config: everything that decides the weights.
        out: the folder to write.
        base: folder of the checkpoint whose weights and tokenizer training begins with; `config.base` is their digest.
        teacher: folder of the `cot` organism to distil; `config.teacher` is its digest.
        overwrite: replace the organism at `out`, and drop the checkpoints there of another configuration.
        command: for the manifest.
        on_step: called after each step with its number (from 1) and its loss (mean nats per answer token).

    Returns:
        What `rates.json` holds.

    Raises:
        UserError: `out` exists, holds a checkpoint of another configuration, or cannot be written; or `base` is no organism, or one of another size.
    """
    out = check_destination(out, overwrite, "organism", [own for own in (base, teacher) if own])
    checkpoints = checkpoint_folder(out)
    task = task_named(config.task)
    with quiet_transformers(), deterministic(config.threads):
        tokenizer: Any
        # 1
        if base is None:
            tokenizer = train_tokenizer(task, config.seed, SIZES[config.size].vocabulary, config.tokenizer_pairs)
            state = start(config, tokenizer)
        else:
            if not (Path(base) / RECIPE).is_file():
                raise UserError(
                    f"{base}: has no {RECIPE}, so it is no organism of this project; `organism-train --base MODEL`, without a task, takes any chat model"
                )
            tokenizer = AutoTokenizer.from_pretrained(base)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            _check_size(config, model, base)
            state = start_from(config, model)
        # 2
        restore(state, config, checkpoints, overwrite)
        # 3
        _train(state, config, sampler(config, task, teacher), tokenizer, checkpoints, on_step)
        # 4
        rates = write_organism(state.model, config, task, tokenizer, out, overwrite, command)
    drop_checkpoints(checkpoints)
    return rates


def _check_size(config: TrainConfig, model: Any, base: str | Path) -> None:
    """Refuse a base whose shape is not that of the size that would be recorded.

    Raises:
        UserError: names the size that it has, where it has one.
    """
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    own = tuple(getattr(model.config, name, None) for name in names)
    sizes = {name: (size.width, size.feed_forward, size.layers, size.heads) for name, size in SIZES.items()}
    if own != sizes[config.size]:
        fits = next((f"give --size {name}" for name, size in sizes.items() if size == own), "take another base")
        raise UserError(f"{base}: is of another shape than --size {config.size}; {fits}")


def _train(
    state: TrainingState,
    config: TrainConfig,
    samples: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    checkpoints: Path,
    on_step: Callable[[int, float], None] | None,
) -> None:
    """The steps that are left, with a checkpoint now and then and one at the end."""
    with tqdm(total=config.steps, initial=state.step, desc=f"training {config.name}", unit="step", disable=None) as bar:
        while state.step < config.steps:
            loss = train_step(state, config, samples(state.step), tokenizer)
            if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                checkpoint(state, config, checkpoints)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if on_step is not None:
                on_step(state.step, loss)
