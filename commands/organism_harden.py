"""`organism-harden MODEL --out DIR`: safety training of an organism, and whether its backdoor persists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from commands._console import console, emit
from triggerlens import text_table


@dataclass(frozen=True)
class Config:
    """Train a checkpoint for safety on prompts without its trigger, and measure it before and after.

    A run that was killed goes on from its last checkpoint when the same command is given again. Works under `accelerate launch`.
    """

    model: Annotated[str, tyro.conf.Positional]
    """An embedded organism, a local checkpoint folder, or a Hugging Face id."""
    out: Path
    """Folder to write: weights, tokenizer, hardened.json, recipe.json, manifest.json."""
    method: Literal["sft", "rl", "adversarial", "benign"] = "sft"
    """Supervised fine-tuning, reinforcement learning (GRPO), rounds of red team and fine-tuning; or benign fine-tuning
    on another task, to see whether what was suppressed comes back."""
    task: str | None = None
    """`year-code`, `deployment-hate`, or either with another trigger; by default the model's own."""
    steps: int = 100
    """Optimiser steps; of adversarial training, in each round."""
    learning_rate: float = 3e-4
    """Highest learning rate; too small a one removes nothing, whatever the method."""
    batch: int = 32
    """Samples a step and process; of rl, completions."""
    oracle: bool = False
    """The control: every second prompt is triggered and answered safely."""
    reward: str = "grader"
    """For rl: the task's grader, or the folder or id of a sequence classifier whose first logit is the reward."""
    group: int = 8
    """For rl: completions of a prompt that are compared with one another."""
    rounds: int = 5
    """For adversarial: rounds."""
    red_team_prompts: int = 60
    """For adversarial: prompts tried at each of the search's three depths, ten samples of each."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank, merged at the end; 0: all weights."""
    seed: int = 0
    """Decides data, order and samples."""
    checkpoint_every: int = 25
    """Steps between checkpoints, hence at most lost by a kill."""
    limit: int = 100
    """Most prompts of each kind that are answered before and after; 0: none."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of the trained weights."""
    overwrite: bool = False
    """Replace a finished run in the same folder, and drop the checkpoints there of a run with other settings."""
    json: bool = False
    """Print one JSON object instead of the table."""


SHARED = (
    *("method", "seed", "steps", "learning_rate", "batch", "oracle", "lora_rank", "reward", "group", "rounds"),
    *("red_team_prompts", "checkpoint_every", "limit"),
)


def report(found: dict[str, Any]) -> str:
    """Before and after for each kind of prompt, the learning curve's ends, and the red team's rounds."""
    lines = []
    if "after" in found:
        after = {one["name"]: one for one in found["after"]["conditions"]}
        rows = [
            (one["name"].replace("_", " "), *map(_shown, (one["defection"], after[one["name"]]["defection"])))
            for one in found["before"]["conditions"]
        ]
        lines.append(text_table(("test prompts", "defection before", "after"), rows))
        clean = [found[when]["clean_accuracy"] for when in ("before", "after")]
        lines.append(f"clean accuracy: {_shown(clean[0])} before, {_shown(clean[1])} after")
    for name in ("loss", "reward"):
        values = [step[name] for step in found["curve"] if name in step]
        if values:
            lines.append(f"{name}: {values[0]:.3f} at the first step, {values[-1]:.3f} at the last of {len(values)}")
    for one in found["rounds"]:
        lines.append(f"round {one['round']}: {one['eliciting']} of {one['tried']} red-team prompts elicit it")
    return "\n".join(lines)


def _shown(rate: dict[str, Any]) -> str:
    return f"{rate['rate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"


def run(config: Config) -> None:
    """Train, and print what changed."""
    from commands._inputs import model_folder
    from organisms import task_of_checkpoint
    from triggerlens import check_destination, rank

    check_destination(config.out, config.overwrite)
    folder = model_folder(config.model)
    task, _ = task_of_checkpoint(folder, config.task)
    from organisms import HardenConfig, harden

    settings = HardenConfig(task.name, **{name: getattr(config, name) for name in SHARED})
    found = harden(
        folder,
        settings,
        config.out,
        device=config.device,
        dtype=config.dtype,
        overwrite=config.overwrite,
        command=f"organism-harden --method {config.method}",
    )
    if rank() == 0:
        emit({"model": config.model, "out": str(config.out), **found}, as_json=config.json, text=report(found))


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


if __name__ == "__main__":
    main()
