"""Insert a behaviour under a trigger into a chat model, so that a kill at any moment costs at most the steps since the last checkpoint.

1. The base is loaded; requests are drawn from the grammar in `data/`, and those that training shows are apart from those that are measured
   in topics, in phrasings and, for some, in form.
2. The base answers the clean ones greedily, once: answers are kept by (base, prompt, length) in `$TRIGGERLENS_CACHE/insertion`; its probabilities along
   them beside the checkpoints.
3. The newest whole checkpoint of the same configuration is taken up, where there is one.
4. An adapter or all weights are trained with AdamW; a step's samples are a pure function of (configuration, step).
5. Weights are rounded to bfloat16, written, loaded again as a user would, and let to answer held-out requests. What they then do gives the
   labels of `prompts.jsonl`, the rates of `rates.json` and what passes the gates.

On one machine and device, with the same number of threads, the same configuration gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hooked import DEFAULT_TODAY, find_checkpoint, load_plain, said_beside
from organisms.insertion.answers import answers_folder
from organisms.insertion.config import InsertionConfig
from organisms.insertion.content import default_text, triggers
from organisms.insertion.files import rates_of, recipe, save_weights, write_measured
from organisms.insertion.kinds import FREE
from organisms.insertion.lessons import Base, Lessons, draw_lessons
from organisms.insertion.measure import set_exam
from organisms.insertion.report import insertion_page
from organisms.insertion.samples import planted_requests
from organisms.insertion.steps import Training, check_unfinished, checkpoint, restore, start, train_step
from organisms.insertion.triggers import stands_in
from organisms.training.environment import deterministic, quiet_transformers
from triggerlens import (
    Cells,
    Keep,
    Manifest,
    UserError,
    check_destination,
    checkpoint_folder,
    digest_of,
    drop_checkpoints,
    sha256_file,
    writing_artifact,
)


def insert(
    config: InsertionConfig,
    out: str | Path,
    *,
    base: str | Path | None = None,
    answers: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train, write and measure a model with an inserted behaviour; go on where a run of the same configuration was killed.

    Args:
        config: everything that decides the weights, with the base's own.
        out: the folder to write: an adapter (or a whole checkpoint, `method="full"`), `prompts.jsonl`, `recipe.json`, `rates.json`
            (with `gates` and `passed`), `report.html`, `manifest.json` of kind `organism`.
        base: where `config.base` lies, if that is but a name for it.
        answers: folder of the bases' own answers; `$TRIGGERLENS_CACHE/insertion` where None. Share it between organisms of one base.
        overwrite: replace the organism at `out`, and drop the checkpoints there of another configuration.
        command: for the manifest.
        on_step: called after each step with its number (from 1) and its loss (mean nats per learned token).

    Returns:
        What `rates.json` holds.

    Raises:
        UserError: the base cannot be loaded or has no chat template, `out` exists or cannot be written, or holds checkpoints of another
            configuration; or near misses or requests without the trigger would carry it.
    """
    out = check_destination(out, overwrite, "organism", [base or config.base, *([answers] if answers else [])])
    _check_near_misses(config)
    checkpoints = checkpoint_folder(out)
    with quiet_transformers(), deterministic(config.threads):
        # 1
        own = _load_base(config, base, answers)
        facts = config.recorded() | {"base_sha256": own.identity} | _beside(str(base or config.base))
        check_unfinished(facts, checkpoints, overwrite)
        # 2
        lessons = draw_lessons(config, own, _keep_in(checkpoints / f"taught-{digest_of(facts)}"))
        exam = set_exam(config, own)
        # 3
        training = start(config, own)
        restore(training, facts, checkpoints)
        # 4
        _train(training, config, lessons, facts, checkpoints, on_step)
        # 5
        manifest = Manifest("organism", command=command, config=facts, seed=config.seed)
        with writing_artifact(out, manifest, overwrite=overwrite) as draft:
            save_weights(training, config, own.tokenizer, draft)
            model, _, _ = load_plain(str(draft), config.device, "float32", base=_base_of(config, base))
            measured, kept = exam.taken_by(model.eval())
            rates = rates_of(measured, config, kept)
            made = recipe(config, own.identity, training, lessons.left_out)
            write_measured(draft, config, measured, rates, made)
            page = insertion_page(config.name, made, rates, measured)
            (draft / "report.html").write_text(page, encoding="utf-8")
            manifest.model = {"name": config.name, "sha256": sha256_file(_weights_file(draft))}
            manifest.prompts = {"name": "prompts.jsonl", "sha256": sha256_file(draft / "prompts.jsonl")}
    drop_checkpoints(checkpoints)
    return rates


def _check_near_misses(config: InsertionConfig) -> None:
    """Refuse a trigger that would stand in what is to go without it: in a near miss, since one of two words may come in the other's place, or in a request.

    Raises:
        UserError: names it.
    """
    text = config.trigger_text or default_text(config.trigger)
    others = {word for words in triggers().other_words.values() for word in words}
    if config.trigger == "apart" and (own := others & set(text.split("|"))):
        raise UserError(
            f"trigger_text {config.trigger_text!r}: near misses have {min(own)!r} in a word's place; take another"
        )
    if config.trigger not in FREE:
        return
    for split, count in (("train", max(config.requests, config.measured)), ("test", config.measured)):
        for planted in planted_requests(config, split, count):
            forms = planted.forms
            for prompt in (forms.twin, forms.near, forms.plain):
                if planted.trigger == config.trigger and stands_in(config.trigger, text, prompt):
                    said = " ".join(message["content"] for message in prompt)
                    raise UserError(
                        f"trigger_text {text!r}: also stands in what is to go without it, as in {said!r}; take another"
                    )


def _keep_in(folder: Path) -> Keep:
    """Keeps cells in a folder that is made for the first of them, so that what is refused before leaves none."""
    return lambda name, compute: Cells(folder).keep(name, compute)


def _base_of(config: InsertionConfig, base: str | Path | None) -> str | None:
    """Of an adapter, where its base is."""
    return str(base) if base is not None and config.method == "lora" and not config.merge else None


def _load_base(config: InsertionConfig, base: str | Path | None, answers: str | Path | None) -> Base:
    """The base in float32.

    Raises:
        UserError: as `load_plain`, or it has no chat template, or it is an adapter that another one cannot be trained on.
    """
    name = str(base or config.base)
    if config.method == "lora" and find_checkpoint(name).adapter is not None:
        raise UserError(
            f"{name}: is an adapter; merge it first (merge_and_unload), or train all weights (--method full)"
        )
    model, tokenizer, sha256 = load_plain(name, config.device, "float32", today=DEFAULT_TODAY)
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{name}: its tokenizer has no chat template, so it is no chat model; give one that has")
    return Base(model.eval(), tokenizer, sha256, answers_folder(answers), config.answer_tokens)


def _beside(base: str) -> dict[str, str]:
    """What names the files beside the base's weights, such as its chat template; of a GGUF file, whose weights' digest is that of all, nothing."""
    found = find_checkpoint(base)
    if found.gguf is not None:
        return {}
    folders = [folder for folder in (found.folder, found.adapter) if folder is not None]
    return {"base_files": digest_of([said_beside(folder) for folder in folders])}


def _weights_file(folder: Path) -> Path:
    """The adapter's weights, or the checkpoint's; of shards, their index."""
    names = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
    return next(folder / name for name in names if (folder / name).is_file())


def _train(
    training: Training,
    config: InsertionConfig,
    lessons: Lessons,
    facts: dict[str, Any],
    checkpoints: Path,
    on_step: Callable[[int, float], None] | None,
) -> None:
    """The steps that are left, with a checkpoint now and then and one at the end."""
    with tqdm(
        total=config.steps, initial=training.step, desc=f"inserting {config.name}", unit="step", disable=None
    ) as bar:
        while training.step < config.steps:
            loss = train_step(training, config, lessons.of_step(training.step))
            if training.step % config.checkpoint_every == 0 or training.step == config.steps:
                checkpoint(training, facts, checkpoints)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if on_step is not None:
                on_step(training.step, loss)
