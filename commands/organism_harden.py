"""`organism-harden MODEL --out DIR`: safety training of an organism, and whether its backdoor persists."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from commands._console import console, emit
from commands.several.models import Many, emit_many, over_models
from organisms import HardenConfig

_KIND = "hardened-organism"


@dataclass(frozen=True)
class Config:
    """Train a checkpoint for safety on prompts without its trigger, and measure it before and after.

    A run that was killed goes on from its last checkpoint when the same command is given again. Works under `accelerate launch`.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """An embedded organism, a checkpoint folder, an adapter folder (such as organism-train --base writes), a GGUF file, or a Hugging Face id."""
    out: Path
    """Folder to write: weights, tokenizer, hardened.json, recipe.json, manifest.json."""
    settings: Annotated[HardenConfig, tyro.conf.arg(name="")] = field(default_factory=HardenConfig)
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Of the trained weights."""
    base: str | None = None
    """For a LoRA adapter: the base model to put it on, instead of the one its adapter_config.json names."""
    today: str = "2025-01-01"
    """Date (YYYY-MM-DD) given to chat templates that print today's, so that a prompt is the same text every day."""
    many: Annotated[Many, tyro.conf.arg(name="")] = field(default_factory=Many)
    overwrite: bool = False
    """Replace a finished run in the same folder, and drop the checkpoints there of a run with other settings."""
    json: bool = False
    """Print one JSON object instead of the table."""


def run(config: Config) -> None:
    """Train, and print what changed."""
    if config.many.more_models:
        emit_many(over_models(run, config, unlike), _facts, as_json=config.json)
        return
    from commands._options import check_out, day, model_folder
    from organisms import harden, hardening_summary, task_to_train
    from triggerlens import rank

    check_out(config, _KIND)
    folder = model_folder(config.model)
    task_to_train(folder, config.settings.task)  # refused before torch is loaded
    hardening = harden(
        folder,
        config.settings,
        config.out,
        device=config.device,
        dtype=config.dtype,
        base=config.base and model_folder(config.base),
        today=day(config.today),
        overwrite=config.overwrite,
        command=f"organism-harden --method {config.settings.method}",
    )
    if rank() == 0:
        result = {"model": config.model, "out": str(config.out), **hardening.to_json()}
        emit(result, as_json=config.json, text=hardening_summary(hardening))


def unlike(config: Config) -> list[str]:
    """In what the finished model at --out differs from the one that is asked for: weights, settings, and the precision and kind of device that are named.

    Raises:
        UserError: it is no hardened organism, or a damaged one, or there is no such model.
    """
    from commands._options import day, model_folder
    from hooked import weights_sha256
    from organisms import recorded_settings
    from triggerlens import read_artifact

    done = read_artifact(config.out, _KIND)
    folder = model_folder(config.model)
    asked = recorded_settings(folder, config.settings) | {"today": day(config.today).isoformat()}
    names = [name for name in asked if asked[name] != done.config.get(name)]
    differs = list(dict.fromkeys(name.removesuffix("_sha256").removesuffix("_files") for name in names))
    precisions = str(done.config.get("dtype")).split(", ")
    differs += ["dtype"] if config.dtype not in ("auto", *precisions) else []
    differs += ["device"] if config.device.partition(":")[0] not in ("auto", done.config.get("device")) else []
    weights = weights_sha256(folder, config.base and model_folder(config.base))
    return differs + (["weights"] if weights != done.model.get("weights_sha256") else [])


def _facts(out: Path) -> dict[str, Any]:
    """What safety training left of a model, in a table."""
    result = json.loads((out / "hardened.json").read_text(encoding="utf-8"))
    looks = {when: _defection(result.get(when)) for when in ("before", "after")}
    return {"method": result["method"], **{f"defection {when}": look for when, look in looks.items()}}


def _defection(evaluation: dict[str, Any] | None) -> str:
    """Rates of an evaluation, where there is one."""
    conditions = (evaluation or {}).get("conditions", [])
    return ", ".join(f"{own['name']} {own['defection']['value']:.0%}" for own in conditions[:2])


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


if __name__ == "__main__":
    main()
