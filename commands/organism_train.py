"""`organism-train TASK --out DIR`: train a model organism with a known trigger, or its clean twin.

`organism-train --base CHAT_MODEL --out DIR`, without a task, inserts one into a chat model: `commands._insertion`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from commands import _insertion
from commands._console import console, emit
from organisms import TrainOptions


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
    check_destination(config.out, config.overwrite)

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


def main() -> None:
    """Entry point of the console script."""
    if _insertion.is_insertion(sys.argv[1:]):
        console(_insertion.Config, _insertion.run)
    else:
        console(Config, run)


if __name__ == "__main__":
    main()
