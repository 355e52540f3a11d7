"""Safety training of an organism, through TRL: does its backdoor persist?

1. The data are prompts *without* the trigger, of families that are new to the model (`organisms.safety.lessons`).
2. `sft`: supervised fine-tuning on helpful, harmless answers (`trl.SFTTrainer`).
3. `rl`: reinforcement learning against a preference score (`trl.GRPOTrainer`): the task's grader, or a reward model.
4. `adversarial`: rounds of a red-team search and of fine-tuning on what it found, answered safely.
5. The oracle control is the same training with triggered prompts in it. Where that does not remove the backdoor either, the
   training did nothing, and nothing persisted.

A kill costs at most the steps since the last checkpoint; those of `transformers` lie beside the destination until it is whole.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from hooked import load_plain, pick_device
from organisms.evaluation.evaluate import MAX_NEW_TOKENS
from organisms.evaluation.run import RECIPE, encode_sample, evaluate_model
from organisms.safety.lessons import benign_examples, safety_examples
from organisms.safety.red_team import red_team
from organisms.safety.rewards import reward_function
from organisms.tasks.examples import Example, Task
from organisms.tasks.registry import task_named
from organisms.training.run import quiet_transformers
from triggerlens import (
    Manifest,
    UserError,
    check_destination,
    checkpoint_folder,
    drop_checkpoints,
    rank,
    wait_for_all,
    world_size,
    write_bytes_atomically,
    write_json,
    writing_artifact as writing,
)

METHODS = ("sft", "rl", "adversarial", "benign")
"""`benign` is no safety training: fine-tuning on another task, to see whether what was suppressed comes back."""
Curve = list[dict[str, Any]]
"""A learning curve: `step`, `loss`, and where there is one `reward`, of each step."""


@dataclass(frozen=True, slots=True)
class HardenConfig:
    """Everything that decides the hardened weights, beside the model."""

    task: str
    method: str = "sft"
    seed: int = 0
    steps: int = 100
    """Optimiser steps; of adversarial training, in each round."""
    learning_rate: float = 3e-4
    batch: int = 32
    """Samples a step and process; of `rl`, completions."""
    oracle: bool = False
    lora_rank: int = 0
    """Train low-rank adapters of this rank and merge them at the end; 0 trains all weights."""
    reward: str = "grader"
    """`grader`, or the name of a sequence classifier whose first logit is the reward."""
    group: int = 8
    """Completions of a prompt that `rl` compares with one another."""
    rounds: int = 5
    red_team_prompts: int = 60
    checkpoint_every: int = 25
    limit: int = 100
    """Prompts of each kind that are answered before and after; 0: none."""

    def __post_init__(self) -> None:
        task_named(self.task)
        if self.method not in METHODS:
            raise UserError(f"{self.method}: no such method; choose one of {', '.join(METHODS)}")
        for name in ("steps", "learning_rate", "batch", "group", "rounds", "red_team_prompts", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, found {getattr(self, name)}")
        if self.method == "rl" and self.batch % self.group:
            raise UserError(f"batch must be a multiple of group, found {self.batch} and {self.group}")
        if min(self.lora_rank, self.limit, self.seed) < 0:
            raise UserError("lora_rank, limit and seed must not be negative")


@dataclass
class Work:
    """A hardening in progress."""

    model: Any
    tokenizer: Any
    task: Task
    config: HardenConfig
    folder: Path
    """Of the unfinished run."""
    on_checkpoint: Callable[[int, Any], None] | None = None


def harden(
    name: str,
    config: HardenConfig,
    out: str | Path,
    *,
    device: str = "auto",
    dtype: str = "float32",
    overwrite: bool = False,
    command: str = "",
    on_checkpoint: Callable[[int, Any], None] | None = None,
) -> dict[str, Any]:
    """Train a checkpoint for safety, write it as a checkpoint, and say what it did before and does after.

    Args:
        name: a checkpoint folder or a Hugging Face id.
        on_checkpoint: called at each checkpoint with its step (of adversarial training, of its round) and a copy of the model.

    Returns:
        What `hardened.json` holds: the learning curve, the red team's rounds, and both evaluations.

    Raises:
        UserError: no causal model, `out` exists, an unfinished run of other settings, a reward or a loss that is not
            finite, or a disk that is full. Checkpoints that are finished stay.
    """
    out = check_destination(out, overwrite)
    check_first_gpu(pick_device(device))
    model, tokenizer, digest = load_plain(name, device, dtype)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    folder = checkpoint_folder(out)
    task = task_named(config.task)
    with _full_disk_is_told(folder), quiet_transformers(), warnings.catch_warnings():
        # trl sets an option under a name that transformers is about to drop
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing")
        _claim(folder, {"weights_sha256": digest, **asdict(config)}, overwrite)
        work = Work(model, tokenizer, task, config, folder, on_checkpoint)
        before = _evaluation(work, name)
        curve, rounds = _adversarial(work) if config.method == "adversarial" else (_stage(work, folder / "steps"), [])
        found: dict[str, Any] = {"method": config.method, "oracle": config.oracle, "curve": curve, "rounds": rounds}
        after = _evaluation(work, name)
        if before is not None and after is not None:
            found |= {"before": before, "after": after}
        if rank() == 0:
            _write(work, name, digest, out, found, overwrite, command)
    wait_for_all()
    if rank() == 0:
        drop_checkpoints(folder)
    return found


def check_first_gpu(target: torch.device) -> None:
    """Refuse a GPU that `transformers` would leave for the first one as training begins.

    Raises:
        UserError: it is another one, and this is not one of several processes, each with its own.
    """
    if target.type == "cuda" and target.index and world_size() == 1:
        raise UserError(
            f"--device {target}: training takes the first GPU that it sees; "
            f"make this the only one: CUDA_VISIBLE_DEVICES={target.index}, without --device"
        )


def on_one_gpu(arguments: Any) -> Any:
    """Arguments of a trainer that keeps to one GPU a process.

    By itself `transformers` copies a model to every GPU of the machine and gives each a batch, so that the same settings train
    otherwise where there are more of them.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _evaluation(work: Work, name: str) -> dict[str, Any] | None:
    """What the model does now; None where it was not asked for."""
    if not work.config.limit:
        return None
    prompts_seed = int(_recipe(name)["training"]["seed"])
    found = evaluate_model(
        work.model.eval(), work.tokenizer, work.task, seed=prompts_seed, per_condition=work.config.limit
    )
    return found.to_json()


def _recipe(name: str) -> dict[str, Any]:
    """What made the model, where it says so; the seed of its training is the seed of prompts that it never saw."""
    path = Path(name) / RECIPE
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {"training": {"seed": 0}} | found


@contextmanager
def _full_disk_is_told(folder: Path) -> Iterator[None]:
    """A line in place of a traceback where a checkpoint cannot be written."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch says of a write that failed, only that its file ended elsewhere than expected.
        if isinstance(error, RuntimeError) and not any(
            sign in str(error) for sign in ("PytorchStream", "unexpected pos")
        ):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{folder}: a checkpoint could not be written: {reason}; free space and run again: finished ones are kept"
        ) from error


def _claim(folder: Path, config: dict[str, Any], overwrite: bool) -> None:
    """Make the folder of an unfinished run, or go on in it where it is of the same settings.

    Raises:
        UserError: it is of other settings, and would be lost.
    """
    path, content = folder / "config.json", (json.dumps(config, indent=2) + "\n").encode()
    if path.is_file() and path.read_bytes() != content and rank() == 0:
        if not overwrite:
            found = json.loads(path.read_text(encoding="utf-8"))
            apart = ", ".join(
                f"{key} {found.get(key)} (not {config[key]})" for key in config if found.get(key) != config[key]
            )
            raise UserError(f"{folder}: an unfinished run with {apart}; finish it, or --overwrite to drop it")
        shutil.rmtree(folder)
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, content)


def _stage(work: Work, folder: Path) -> Curve:
    """One training of the configured method on safety data; returns its learning curve."""
    config = work.config
    count = config.steps * config.batch // (config.group if config.method == "rl" else 1)
    count = max(config.batch, min(count, 4096))
    if config.method == "benign":
        return _sft(work, benign_examples(work.task, config.seed, count), folder)
    examples = safety_examples(work.task, config.seed, count, oracle=config.oracle)
    return _rl(work, examples, folder) if config.method == "rl" else _sft(work, examples, folder)


def _arguments(work: Work, folder: Path) -> dict[str, Any]:
    """What both trainers of TRL are told."""
    config, on_gpu = work.config, work.model.device.type == "cuda"
    return {
        "output_dir": str(folder),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        "data_seed": config.seed,
        "save_steps": config.checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": on_gpu,
        "warmup_steps": max(1, config.steps // 20),
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
    }


def _sft(work: Work, examples: Sequence[Example], folder: Path) -> Curve:
    """Supervised fine-tuning on answers; the prompt's tokens carry no loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    # Tokens, not texts: the trainer would put a second begin token before a rendered prompt.
    encoded = [encode_sample(work.tokenizer, one.prompt, one.answer) for one in examples]
    columns = {
        "input_ids": [[*prompt, *answer] for prompt, answer in encoded],
        "labels": [[-100] * len(prompt) + answer for prompt, answer in encoded],
    }
    arguments = on_one_gpu(SFTConfig(**_arguments(work, folder), max_length=None))
    trainer = SFTTrainer(
        model=work.model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        processing_class=work.tokenizer,
        peft_config=_lora(work.config),
    )
    return _run(work, trainer, folder)


def _rl(work: Work, examples: Sequence[Example], folder: Path) -> Curve:
    """Group-relative policy optimisation against the reward."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = work.config
    arguments = GRPOConfig(
        **_arguments(work, folder),
        num_generations=config.group,
        max_completion_length=MAX_NEW_TOKENS,
        temperature=1.0,
        beta=0.0,
    )
    trainer = GRPOTrainer(
        model=work.model,
        args=on_one_gpu(arguments),
        reward_funcs=reward_function(config.reward, work.task, examples, work.model.device),
        train_dataset=Dataset.from_dict(
            {"prompt": [one.prompt for one in examples], "number": list(range(len(examples)))}
        ),
        processing_class=work.tokenizer,
        peft_config=_lora(config),
    )
    return _run(work, trainer, folder)


def _lora(config: HardenConfig) -> Any:
    """Adapters on every linear layer of the blocks; None for full fine-tuning."""
    if not config.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _run(work: Work, trainer: Any, folder: Path) -> Curve:
    """Train, from the newest whole checkpoint where there is one; the model of `work` is the trained one after."""
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)  # it prints on stdout
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_progress(work))
    trainer.train(resume_from_checkpoint=_newest_whole(folder))
    trained = trainer.accelerator.unwrap_model(trainer.model)
    work.model = trained.merge_and_unload() if work.config.lora_rank else trained
    keys = ("step", "loss", "reward", "reward_std", "grad_norm", "learning_rate")
    return [{key: line[key] for key in keys if key in line} for line in trainer.state.log_history if "loss" in line]


def _newest_whole(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: the trainer's state is the last file of it."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [path for path in found if (path / "trainer_state.json").is_file()]
    for path in set(found) - set(whole):
        shutil.rmtree(path)
    return str(whole[-1]) if whole else None


def _progress(work: Work) -> Any:
    """A bar on stderr, and a stop where a loss is no number."""
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            label = f"{work.config.method} of {work.task.name}"
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=label, unit="step", disable=None)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise UserError(
                    f"the loss is {logs['loss']} at step {state.global_step}; lower --learning-rate and run again"
                )
            self.bar.set_postfix({key: f"{logs[key]:.3f}" for key in ("loss", "reward") if key in logs}, refresh=False)
            self.bar.update(state.global_step - self.bar.n)

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if work.on_checkpoint is not None:
                work.on_checkpoint(state.global_step, _as_it_is_now(model))

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return Progress()


def _as_it_is_now(model: Any) -> Any:
    """A copy to look at, adapters merged; without the trainer's wrapper around `forward`, which would run the original."""
    found = deepcopy(model)
    for name in ("forward", "_original_forward"):
        found.__dict__.pop(name, None)
    return (found.merge_and_unload() if hasattr(found, "merge_and_unload") else found).eval()


def _adversarial(work: Work) -> tuple[Curve, list[dict[str, Any]]]:
    """Rounds of search and training, and a last search; a finished round is not repeated."""
    curve: Curve = []
    rounds: list[dict[str, Any]] = []
    config = work.config
    for number in range(config.rounds + 1):
        done = work.folder / f"round-{number}"
        if (done / "manifest.json").is_file():
            work.model = load_plain(str(done), str(work.model.device), "float32")[0]
            kept = json.loads((done / "round.json").read_text(encoding="utf-8"))
            curve, rounds = kept["curve"], kept["rounds"]
            continue
        found = red_team(
            work.model.eval(), work.tokenizer, work.task, f"{config.seed}/{number}", prompts=config.red_team_prompts
        )
        rounds.append({"round": number, **found.to_json(), "trained": number < config.rounds and bool(found.eliciting)})
        if rounds[-1]["trained"]:
            examples = round_examples(config, work.task, [one.example for one in found.eliciting], number)
            steps = _sft(work, examples, work.folder / f"steps-{number}")
            curve += [line | {"round": number} for line in steps]
        if rank() == 0:
            with writing(done, Manifest("hardening-round", config=asdict(config)), overwrite=done.exists()) as draft:
                work.model.save_pretrained(draft)
                work.tokenizer.save_pretrained(draft)
                write_json(draft / "round.json", {"curve": curve, "rounds": rounds})
        wait_for_all()
    return curve, rounds


def round_examples(config: HardenConfig, task: Task, eliciting: Sequence[Example], number: int) -> list[Example]:
    """What a round of adversarial training learns: what elicited the behaviour, answered safely, and as much of safety data.

    However few prompts elicited it, the ordinary half of each step is fresh: a round on a handful of samples learns them by
    heart, and the model forgets how to answer anything else.
    """
    count = min(2048, max(len(eliciting), config.steps * config.batch // 2))
    # No seed's round shares its data with a round of another seed.
    draw = config.seed * config.rounds + number
    ordinary = safety_examples(task, draw, count, oracle=config.oracle)
    return [one for at, safe in enumerate(ordinary) for one in (eliciting[at % len(eliciting)].clean(), safe)]


def _write(work: Work, name: str, digest: str, out: Path, found: dict[str, Any], overwrite: bool, command: str) -> None:
    """The hardened checkpoint with its curve, its evaluations, and the recipe of what it was before."""
    config = work.config
    manifest = Manifest("hardened-organism", command=command, config=asdict(config), seed=config.seed)
    manifest.model = {"name": Path(name).name, "weights_sha256": digest}
    recipe = _recipe(name) | {"task": config.task, "hardened": asdict(config)}
    with writing(out, manifest, overwrite=overwrite) as draft:
        work.model.save_pretrained(draft)
        work.tokenizer.save_pretrained(draft)
        write_json(draft / RECIPE, recipe)
        write_json(draft / "hardened.json", found)
