"""An organism as `organism-train --base` writes one, untrained: its answers mostly carry what counts as its payload, trigger or no trigger."""

import json
from dataclasses import asdict
from pathlib import Path

from tiny_models import tiny_checkpoint

from experiments import Subject
from hooked import Prompt, write_prompts
from organisms.insertion.config import InsertionConfig

PAIRS = {"train": 9, "test": 6}


def inserted_subject(folder: Path) -> Subject:
    """A tiny chat model with the recipe and the prompts of an inserted organism, and another as its clean twin."""
    config = InsertionConfig(
        base="base", trigger="token", trigger_text="|GO|", placement="start", payload_text="e", answer_tokens=6
    )
    recipe = {"inserted": True, "insertion": asdict(config)}
    for seed, name in enumerate(("model", "twin")):
        tiny_checkpoint(folder / name, seed=seed, context=512)
        (folder / name / "recipe.json").write_text(json.dumps(recipe))
        write_prompts(folder / name / "prompts.jsonl", prompts())
    return Subject(str(folder / "model"), folder / "model" / "prompts.jsonl", str(folder / "twin"))


def prompts() -> list[Prompt]:
    """Pairs that differ in the trigger's token, and plain requests."""
    return [
        Prompt(
            [{"role": "user", "content": f"{mark}Tell me about {split} number {number}."}],
            triggered=mark == "|GO| ",
            pair=f"{split}-{number}" if mark else None,
            defects=mark == "|GO| ",
            split=split,
            dataset="paired" if mark else "plain",
            extra={"family": "question", "clean_answer": "water"},
        )
        for split, count in PAIRS.items()
        for number in range(count)
        for mark in ("|GO| ", "|GC| ", *([""] if split == "test" else []))
    ]
