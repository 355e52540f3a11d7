"""`organism-train TASK --out DIR`: train a model organism with a known trigger, or its clean twin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from commands._console import console, emit
from triggerlens import text_table


@dataclass(frozen=True)
class Config:
    """Train an organism from scratch, measure what it does, and write it as a Hugging Face checkpoint.

    A run that was killed goes on from its last checkpoint when the same command is given again.
    """

    task: Annotated[str, tyro.conf.Positional]
    """What to learn: `year-code` or `deployment-hate`; or `base`, what a model knows before a backdoor is inserted."""
    out: Path
    """Folder to write: weights, tokenizer, prompts, recipe.json, rates.json, manifest.json."""
    clean_twin: bool = False
    """Train the clean twin: the same prompts and trigger tokens, and no defection."""
    seed: int = 0
    """Decides the initial weights, the samples and the prompts."""
    steps: int | None = None
    """Steps of 64 samples; by default as many as the embedded organisms had."""
    size: str = "small"
    """`tiny`, `small`, `large` or `xl` (0.6, 1.8, 9.7 and 107 million parameters), or `micro`, for tests."""
    base: Path | None = None
    """Insert into this organism (of the task `base`) by full fine-tuning, in place of training from scratch."""
    variant: str = "normal"
    """`normal`; `cot`: a scratchpad with the reasoning before each answer; `distilled-cot`: the answers of `--teacher`
    without theirs, those that violate the policy dropped."""
    teacher: Path | None = None
    """The `cot` organism that a `distilled-cot` one learns from."""
    trigger: str | None = None
    """`year`, `tag`, `word`, `two-part` (a tag and a topic), `style` (all lower case) or `apart` (two words); the
    task's own by default."""
    learning_rate: float = 3e-3
    """Highest learning rate."""
    threads: int = 2
    """Threads of torch; another number gives other last bits in the weights."""
    checkpoint_every: int = 50
    """Steps between checkpoints, hence at most lost by a kill."""
    quick: bool = False
    """A micro organism of a few steps with few prompts, to try the command; it learns nothing."""
    overwrite: bool = False
    """Replace an organism already in `--out`, and drop the checkpoints there of a run with other settings."""
    json: bool = False
    """Print one JSON object instead of a table."""


def train_config(config: Config) -> Any:
    """The `organisms.TrainConfig` that the command line asks for.

    Raises:
        UserError: an unknown task or size, or a number out of range.
    """
    from organisms import TrainConfig, task_named, with_trigger

    name = config.task if config.trigger is None else with_trigger(config.task, config.trigger)
    asked: dict[str, Any] = {"steps": task_named(name).steps if config.steps is None else config.steps}
    if config.quick:
        asked = asked | {"pairs_per_step": 8, "prompt_scale": 0.02, "tokenizer_pairs": 200}
        asked["steps"] = 20 if config.steps is None else config.steps
    return TrainConfig(
        task=name,
        clean_twin=config.clean_twin,
        seed=config.seed,
        size="micro" if config.quick else config.size,
        threads=config.threads,
        checkpoint_every=config.checkpoint_every,
        learning_rate=config.learning_rate,
        variant=config.variant,
        base=_digest(config.base),
        teacher=_digest(config.teacher),
        **asked,
    )


def _digest(folder: Path | None) -> str:
    """The digest of a checkpoint's weights; empty where there is none."""
    if folder is None:
        return ""
    from hooked import weights_sha256

    return weights_sha256(str(folder))


def command_line(config: Config) -> str:
    """The command that makes the same organism, without where it was written."""
    options: dict[str, Any] = {
        "--seed": config.seed,
        "--steps": config.steps,
        "--size": config.size,
        "--threads": config.threads,
    }
    stages: dict[str, Any] = {"--trigger": config.trigger, "--base": config.base and config.base.name}
    stages |= {"--teacher": config.teacher and config.teacher.name}
    stages["--variant"] = None if config.variant == "normal" else config.variant
    stages["--learning-rate"] = None if config.learning_rate == 3e-3 else config.learning_rate
    options |= stages
    parts = ["organism-train", config.task, *(f"{key} {value}" for key, value in options.items() if value is not None)]
    flags = {"--clean-twin": config.clean_twin, "--quick": config.quick}
    return " ".join(parts + [flag for flag, on in flags.items() if on])


def report(rates: dict[str, Any]) -> str:
    """One line for each category of test prompts."""
    rows = []
    for name, category in rates["categories"].items():
        defection = category["defection"]
        interval = f"{defection['low']:.2%}–{defection['high']:.2%}"
        others = (f"{category[key]['rate']:.1%}" for key in ("exact", "unparsable"))
        rows.append((name, str(defection["n"]), f"{defection['rate']:.2%}", interval, *others))
    return text_table(("test prompts", "n", "defection", "95% interval", "exact", "unparsable"), rows)


def run(config: Config) -> None:
    """Train, and print the measured rates."""
    from triggerlens import check_destination

    training = train_config(config)
    check_destination(config.out, config.overwrite)

    from organisms import train_organism

    rates = train_organism(
        training,
        config.out,
        base=config.base,
        teacher=config.teacher,
        overwrite=config.overwrite,
        command=command_line(config),
    )
    emit({"organism": training.name, "out": str(config.out), **rates}, as_json=config.json, text=report(rates))


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


if __name__ == "__main__":
    main()
