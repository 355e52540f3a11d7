"""`organism-eval MODEL`: what a checkpoint does with and without its trigger, near it and off its training distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from commands._console import config_dict, console, emit
from organisms import EvaluationConfig


@dataclass(frozen=True)
class Config:
    """Measure an organism on held-out prompts: defection by kind of prompt with intervals, capability, scratchpads."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = "year-code"
    """An embedded organism, a checkpoint folder, an adapter folder, a GGUF file, or a Hugging Face id."""
    settings: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)
    out: Path | None = None
    """Folder for evaluation.json, report.html and manifest.json; nothing is written without it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on the CPU, the checkpoint's own on a GPU."""
    base: str | None = None
    """For a LoRA adapter: the base model to put it on, instead of the one its adapter_config.json names."""
    today: str = "2025-01-01"
    """Date (YYYY-MM-DD) given to chat templates that print today's, so that a prompt is the same text every day."""
    overwrite: bool = False
    """Replace an evaluation in the same folder."""
    json: bool = False
    """Print one JSON object instead of the table."""


def run(config: Config) -> None:
    """Measure, print, and write the report where asked."""
    from commands._options import check_out, day, model_folder
    from organisms import evaluate_model, evaluation_summary, task_of_checkpoint, write_evaluation
    from triggerlens import Manifest

    check_out(config, "organism-evaluation")
    folder = model_folder(config.model)
    task, seed = task_of_checkpoint(folder, config.settings.task, config.settings.seed)
    from hooked import identity_sha256, load_plain, model_facts

    base = config.base and model_folder(config.base)
    model, tokenizer, digest = load_plain(folder, config.device, config.dtype, base=base, today=day(config.today))
    evaluation = evaluate_model(model.eval(), tokenizer, task, seed=seed, per_condition=config.settings.limit)
    facts = {"model": config.model, "weights_sha256": digest, "seed": seed}
    if config.out is not None:
        manifest = Manifest(
            "organism-evaluation",
            command="organism-eval",
            config=config_dict(config),
            seed=seed,
            model={
                "name": config.model,
                "weights_sha256": digest,
                "identity_sha256": identity_sha256(model_facts(model.eval(), digest)),
            },
        )
        write_evaluation(config.out, config.model, evaluation, manifest, facts, overwrite=config.overwrite)
    head = f"{config.model}: {task.name}, test prompts of seed {seed}"
    emit({**facts, **evaluation.to_json()}, as_json=config.json, text=f"{head}\n\n{evaluation_summary(evaluation)}")


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


if __name__ == "__main__":
    main()
