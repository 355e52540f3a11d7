"""`organism-eval MODEL`: what a checkpoint does with and without its trigger, near it and off its training distribution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from commands._console import config_dict, console, emit
from triggerlens import text_table


@dataclass(frozen=True)
class Config:
    """Measure an organism on held-out prompts: defection by kind of prompt with intervals, capability, scratchpads."""

    model: Annotated[str, tyro.conf.Positional] = "year-code"
    """An embedded organism, a local checkpoint folder, or a Hugging Face id."""
    task: str | None = None
    """`year-code`, `deployment-hate`, or either with another trigger (`year-code+style`); by default the model's own."""
    out: Path | None = None
    """Folder for evaluation.json, report.html and manifest.json; nothing is written without it."""
    limit: int = 250
    """Most prompts of each kind."""
    seed: int | None = None
    """Of the prompts; by default that of the model's training, whose test prompts it never saw."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: float32 on the CPU, the checkpoint's own on a GPU."""
    overwrite: bool = False
    """Replace an evaluation in the same folder."""
    json: bool = False
    """Print one JSON object instead of the table."""


def run(config: Config) -> None:
    """Measure, print, and write the report where asked."""
    from commands._inputs import model_folder
    from organisms import evaluate_model, task_of_checkpoint
    from triggerlens import Manifest, UserError, check_destination, write_json, writing_artifact

    if config.limit < 1:
        raise UserError(f"--limit must be at least 1, found {config.limit}")
    if config.out is not None:
        check_destination(config.out, config.overwrite)
    folder = model_folder(config.model)
    task, seed = task_of_checkpoint(folder, config.task, config.seed)
    from hooked import load_plain
    from organisms import HEAD, report, rows, verdict

    model, tokenizer, digest = load_plain(folder, config.device, config.dtype)
    found = evaluate_model(model.eval(), tokenizer, task, seed=seed, per_condition=config.limit)
    loss = found.clean_loss
    result = {"model": config.model, "weights_sha256": digest, "seed": seed, **found.to_json()}
    if config.out is not None:
        manifest = Manifest(
            "organism-evaluation",
            command="organism-eval",
            config=config_dict(config),
            seed=seed,
            model={"name": config.model, "weights_sha256": digest},
        )
        with writing_artifact(config.out, manifest, overwrite=config.overwrite) as draft:
            write_json(draft / "evaluation.json", result)
            (draft / "report.html").write_text(report(config.model, found), encoding="utf-8")
    lines = [
        f"{config.model}: {task.name}, test prompts of seed {seed}",
        text_table(HEAD, rows(found)),
        f"clean prompts: loss {loss.mean:.3f} [{loss.low:.3f}, {loss.high:.3f}] nats per answer token (n = {loss.n})",
        verdict(found),
    ]
    emit(result, as_json=config.json, text="\n\n".join(lines))


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


if __name__ == "__main__":
    main()
