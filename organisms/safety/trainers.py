"""One training of a model by TRL: supervised fine-tuning (`SFTTrainer`), or policy optimisation (`GRPOTrainer`).

Each goes on from its newest whole checkpoint; those are TRL's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hooked import padding_id, prints_date, vocabulary_of
from organisms.evaluation.answers import encode_samples
from organisms.safety.config import HardenConfig
from organisms.safety.result import Step
from organisms.safety.rewards import reward_function
from organisms.safety.unfinished import newest_whole
from organisms.tasks.examples import Example, Task
from triggerlens import UserError, world_size

LOGGED = ("step", "loss", "reward", "reward_std", "grad_norm", "learning_rate")


@dataclass
class Work:
    """A model in safety training."""

    model: Any
    tokenizer: Any
    task: Task
    config: HardenConfig
    folder: Path
    """Of the unfinished run."""
    on_checkpoint: Callable[[int, Any], None] | None = None


def check_first_gpu(target: torch.device) -> None:
    """Refuse a GPU that `transformers` would leave for the first one as training begins.

    Raises:
        UserError: it is another one, and this is not one of several processes, each with its own.
    """
    if target.type == "cuda" and target.index and world_size() == 1:
        raise UserError(
            f"--device {target}: training takes the first GPU that it sees; "
            f"make this the only one: CUDA_VISIBLE_DEVICES={target.index}, without --device"
        )


def on_one_gpu(arguments: Any) -> Any:
    """Arguments of a trainer that keeps to one GPU a process.

    By itself `transformers` copies a model to every GPU of the machine and gives each a batch, so that the same settings train
    otherwise where there are more of them.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def with_usable_padding(tokenizer: Any, model: Any) -> Any:
    """The tokenizer with a padding token that the model has an embedding for; TRL pads with it, masked, as `hooked` does."""
    own = tokenizer.pad_token_id
    if own is None or own >= vocabulary_of(model):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding_id(model, tokenizer))
    return tokenizer


def fine_tune(work: Work, examples: Sequence[Example], folder: Path) -> tuple[Step, ...]:
    """Supervised fine-tuning on answers; the prompt's tokens carry no loss. Gives the learning curve.

    Args:
        work: its model is the trained one afterwards.
        examples: what is learned.
        folder: of the trainer's checkpoints.

    Raises:
        UserError: a prompt that is refused or too long, or a loss that is not finite.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    # Tokens, not texts: the trainer would put a second begin token before a rendered prompt.
    samples = [(example.prompt, example.answer) for example in examples]
    encoded = encode_samples(work.model, work.tokenizer, samples)
    columns = {
        "input_ids": [[*prompt, *answer] for prompt, answer in encoded],
        "labels": [[-100] * len(prompt) + answer for prompt, answer in encoded],
    }
    trainer = SFTTrainer(
        model=work.model,
        args=on_one_gpu(SFTConfig(**_arguments(work, folder), max_length=None)),
        train_dataset=Dataset.from_dict(columns),
        processing_class=work.tokenizer,
        peft_config=_lora(work.config),
    )
    return _trained(work, trainer, folder)


def reinforce(work: Work, examples: Sequence[Example], folder: Path) -> tuple[Step, ...]:
    """Group-relative policy optimisation against the reward. Gives the learning curve.

    Args:
        work: its model is the trained one afterwards.
        examples: whose prompts are answered.
        folder: of the trainer's checkpoints.

    Raises:
        UserError: no such reward, a reward or a loss that is not finite, or prompts that are refused.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = work.config
    if prints_date(work.tokenizer):
        raise UserError(
            "the chat template prints today's date, and reinforcement learning renders prompts by the clock, so that no two days train "
            "alike; use another --method"
        )
    encode_samples(work.model, work.tokenizer, [(example.prompt, "") for example in examples])  # refuses as elsewhere
    arguments = GRPOConfig(
        **_arguments(work, folder),
        num_generations=config.group,
        max_completion_length=work.task.longest,
        temperature=1.0,
        beta=0.0,
    )
    columns = {"prompt": [example.prompt for example in examples], "number": list(range(len(examples)))}
    trainer = GRPOTrainer(
        model=work.model,
        args=on_one_gpu(arguments),
        reward_funcs=reward_function(config.reward, work.task, examples, work.model.device),
        train_dataset=Dataset.from_dict(columns),
        processing_class=work.tokenizer,
        peft_config=_lora(config),
    )
    return _trained(work, trainer, folder)


def _arguments(work: Work, folder: Path) -> dict[str, Any]:
    """What both trainers of TRL are told."""
    config, on_gpu = work.config, work.model.device.type == "cuda"
    return {
        "output_dir": str(folder),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        "data_seed": config.seed,
        "save_steps": config.checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": on_gpu,
        "warmup_steps": max(1, config.steps // 20),
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
    }


def _lora(config: HardenConfig) -> Any:
    """Adapters on every linear layer of the blocks; None for full fine-tuning."""
    if not config.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _trained(work: Work, trainer: Any, folder: Path) -> tuple[Step, ...]:
    """Train, from the newest whole checkpoint where there is one; the model of `work` is the trained one after."""
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)  # it prints on stdout
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_progress(work))
    trainer.train(resume_from_checkpoint=newest_whole(folder))
    # What is measured afterwards runs in the weights' own precision, as what was measured before.
    work.model = _merged(trainer.accelerator.unwrap_model(trainer.model))
    history = trainer.state.log_history
    return tuple({key: line[key] for key in LOGGED if key in line} for line in history if "loss" in line)


def _progress(work: Work) -> Any:
    """A bar on stderr, and a stop where a loss is no number."""
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            label = f"{work.config.method} of {work.task.name}"
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=label, unit="step", disable=None)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise UserError(
                    f"the loss is {logs['loss']} at step {state.global_step}; lower --learning-rate and run again"
                )
            self.bar.set_postfix({key: f"{logs[key]:.3f}" for key in ("loss", "reward") if key in logs}, refresh=False)
            self.bar.update(state.global_step - self.bar.n)

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if work.on_checkpoint is not None:
                work.on_checkpoint(state.global_step, _as_it_is_now(model))

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return Progress()


def _as_it_is_now(model: Any) -> Any:
    """A copy to look at, adapters merged; without the trainer's wrapper around `forward`, which would run the original."""
    return _merged(deepcopy(model)).eval()


def _merged(model: Any) -> Any:
    """The model with its adapters merged, without the trainer's wrapper around `forward`: on a GPU that one runs in bfloat16."""
    bare = _without_wrapper(model)
    # The model inside adapters has a wrapper of its own.
    return _without_wrapper(bare.merge_and_unload()) if hasattr(bare, "merge_and_unload") else bare


def _without_wrapper(model: Any) -> Any:
    for name in ("forward", "_original_forward"):
        model.__dict__.pop(name, None)
    return model
