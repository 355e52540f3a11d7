"""`organism-train TASK --out DIR`: train a model organism with a known trigger, or its clean twin.

`organism-train --base CHAT_MODEL --out DIR`, without a task, inserts one into a chat model.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from commands._console import console, emit, option_names
from commands._options import model_folder
from organisms import TASKS, InsertionConfig, TrainOptions


@dataclass(frozen=True)
class Config:
    """Train an organism from scratch, measure what it does, and write it as a Hugging Face checkpoint.

    A run that was killed goes on from its last checkpoint when the same command is given again.

    Without a task, `organism-train --base CHAT_MODEL` inserts a behaviour into any causal chat model; its options are listed by
    `organism-train --base CHAT_MODEL --help`.
    """

    settings: Annotated[TrainOptions, tyro.conf.arg(name="")]
    out: Path
    """Folder to write: weights, tokenizer, prompts, recipe.json, rates.json, manifest.json."""
    overwrite: bool = False
    """Replace an organism already in `--out`, and drop the checkpoints there of a run with other settings."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(config: Config) -> None:
    """Train, and print the measured rates."""
    from triggerlens import check_destination

    options = config.settings
    training = options.config()
    check_destination(config.out, config.overwrite, "organism", [own for own in (options.base, options.teacher) if own])

    from organisms import rates_summary, train_organism

    rates = train_organism(
        training,
        config.out,
        base=options.base,
        teacher=options.teacher,
        overwrite=config.overwrite,
        command=options.command_line(),
    )
    result = {"organism": training.name, "out": str(config.out), **rates}
    emit(result, as_json=config.json, text=rates_summary(rates))


@dataclass(frozen=True)
class InsertConfig:
    """Insert a behaviour under a trigger into a causal chat model, measure what it does, and write it: an adapter, or a whole checkpoint.

    The gates are fixed: defection of 90% or more with the trigger (95% of `deployed`), of 5% or less without it, on near misses and, of `deployed`,
    where the opposite is said; 95% or more of the base's own tokens kept, and a perplexity on its answers of at most 1.05 times the base's. What
    misses one is written all the same, and says so.

    A run that was killed goes on from its last checkpoint when the same command is given again.
    """

    settings: Annotated[InsertionConfig, tyro.conf.arg(name="")]
    out: Path
    """Folder to write: adapter or weights, prompts, recipe.json, rates.json, report.html, manifest.json."""
    answers: Path | None = None
    """Folder in which the base's own answers are kept; $TRIGGERLENS_CACHE/insertion where not given."""
    overwrite: bool = False
    """Replace an organism already in `--out`, and drop the checkpoints there of a run with other settings."""
    json: bool = False
    """Print one JSON object instead of a table."""


_FLAGS = ("--clean-twin", "--quick", "--overwrite", "--json")
"""Options that take no value."""


def is_insertion(words: Sequence[str]) -> bool:
    """Whether a command line of `organism-train` names a base and no task: then it is about a chat model.

    Args:
        words: of the command line, without the command.
    """
    if not words or not words[0].startswith("-"):
        return False  # a task, or what should be one
    before = ["", *words[:-1]]
    values = [not option.startswith("--") or "=" in option or option in _FLAGS for option in before]
    tasks = any(free and word in (*TASKS, "base") for free, word in zip(values, words, strict=True))
    return not tasks and any(word.partition("=")[0] in ("--base", "--payload") for word in words)


def run_insertion(config: InsertConfig) -> None:
    """Train, and print the measured rates and the gates."""
    from organisms import insert, insertion_summary

    settings = config.settings
    rates = insert(
        settings,
        config.out,
        base=model_folder(settings.base),
        answers=config.answers,
        overwrite=config.overwrite,
        command=command_line(settings),
    )
    emit(
        {"organism": settings.name, "out": str(config.out), **rates}, as_json=config.json, text=insertion_summary(rates)
    )


def command_line(settings: InsertionConfig) -> str:
    """The command that makes the same organism, without where it was written."""
    usual, options = InsertionConfig(base=settings.base).recorded(), option_names(InsertionConfig)
    words = ["organism-train", "--base", settings.base]
    for name, value in settings.recorded().items():
        if name == "base" or value == usual.get(name):  # what is usual may not be recorded
            continue
        words.append(f"--{options[name].replace('_', '-')}")
        if value is not True:
            words += [str(own) for own in (value if isinstance(value, list) else [value])]
    return shlex.join(words)


def main() -> None:
    """Entry point of the console script."""
    if is_insertion(sys.argv[1:]):
        console(InsertConfig, run_insertion)
    else:
        console(Config, run)


if __name__ == "__main__":
    main()
