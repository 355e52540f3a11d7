"""From a model and texts to trained and measured autoencoders.

1. Prompts are split into those to train on and those to measure on, and brought into a random order.
2. Activations of every token but each prompt's first come from the store, written once, or from the model itself, which then runs in every pass. Either is done
   here, or by workers.
3. All autoencoders are trained on the same batches.
4. Each is measured on the held-out prompts, and where seeds differ alone, they are held against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from hooked import (
    ActivationStore,
    ExtractionSpec,
    HookedModel,
    Prompt,
    contradictions,
    identity_sha256,
    provenance_of,
    store_activations,
    tokens_sha256,
)
from sae.ahead import AheadSource
from sae.architectures.core import SparseAutoencoder
from sae.architectures.crosscoder import Crosscoder
from sae.architectures.registry import architecture_class, build_sae
from sae.config import Recipe, TrainConfig
from sae.evaluate import Predicted, decoder_cosines, predicted_texts, spliced_cross_entropy
from sae.origin import ORIGIN
from sae.reconstruction import evaluate_reconstruction
from sae.result import SaeResult, TrainedSae
from sae.stream import ActivationSource, ModelSource, SideBySide, StoreSource
from sae.texts import TextPieces, prompts_sha256, train_and_held_out
from sae.train import CurvePoint, train_saes
from sae.trigger_latents.stability import Stability, stability
from triggerlens import ExecutorConfig, UserError, rank, say_once, sha256_file, world_size

_STABLE_WIDTH = 4096
"""The widest autoencoders that are matched across seeds: matching takes the cube of the width."""


def train_on_model(
    model: HookedModel,
    prompts: Sequence[Prompt],
    site: str,
    wanted: Sequence[Recipe],
    config: TrainConfig,
    *,
    other: HookedModel | None = None,
    activations: Path | None = None,
    store: Path | None = None,
    keep: bool = True,
    answer_tokens: int = 0,
    executor: ExecutorConfig | None = None,
    **options: Any,
) -> SaeResult:
    """Train and measure autoencoders of one site.

    Args:
        model: which model.
        prompts: to train on and to measure on.
        site: where.
        wanted: the autoencoders, all crosscoders or none.
        config: how to train.
        other: a crosscoder's second model.
        activations: a finished store to train on in place of the prompts; held-out prompts are run through the model.
        store: folder of all stores.
        keep: write the activations to the store; otherwise the model runs in every pass.
        answer_tokens: as in `evaluate_cross_entropy`.
        executor: whose workers run the model, for the store or ahead of the training; here where None.
        **options: `checkpoints` and `restart` of `train_saes`.

    Returns:
        The autoencoders in the order asked for; none where this is not the first process.

    Raises:
        UserError: as the steps do, or a crosscoder without a second model.
    """
    models = [model] if other is None else [model, other]
    _check_models(wanted, models)
    tokens = None if isinstance(prompts, TextPieces) else [row.ids for row in model.tokenize(prompts)]
    train, held_out = train_and_held_out(prompts, config.seed, tokens=tokens)  # 1
    notes = [contradictions(prompts, tokens)] if tokens is not None else []
    if activations is not None:  # 2
        stored = ActivationStore(activations)
        source: ActivationSource = StoreSource(stored, site)
        notes += [_of_another_model(stored, model), _of_other_prompts(stored, model, train)]
    else:
        source = _source(models, train, site, store=store, keep=keep, executor=executor)
    saes = [_fresh(recipe, models, site) for recipe in wanted]
    identity = {"site": site, "activations": _origin(models, train, activations)}
    curves = train_saes(source, saes, config, identity=identity, **options)  # 3
    if rank() != 0:
        return SaeResult(site, config, (), {})
    predicted = predicted_texts(model, held_out[:], answer_tokens) if other is None else ()
    measured = [
        _measured(models, recipe, sae, curve, held_out, site, predicted)  # 4
        for recipe, sae, curve in zip(wanted, saes, curves, strict=True)
    ]
    said = tuple(note for note in notes if note)
    return SaeResult(site, config, tuple(measured), seed_stability(measured), said)


def _of_another_model(store: ActivationStore, model: HookedModel) -> str | None:
    """A line, said once too, where stored activations are not those of the model that they are used with."""
    if store.manifest.config.get("model") == identity_sha256(model.identity()["model"]):
        return None
    line = (
        f"{store.folder}: its activations are of another model than {model.info.name} (other weights or another configuration): the "
        "autoencoder is trained on one and measured on the other"
    )
    say_once(line)
    return line


def _of_other_prompts(store: ActivationStore, model: HookedModel, train: Sequence[Prompt]) -> str | None:
    """A line, said once too, where stored activations are not those of the prompts that are not held out."""
    facts = store.manifest.config
    spec = ExtractionSpec(store.sites, facts["position"], read=facts.get("read", "prompt"))
    try:
        same = facts.get("tokens") == tokens_sha256(model, train, spec)
    except UserError:  # a store of answers, and prompts without any
        same = False
    if same:
        return None
    line = (
        f"{store.folder}: its activations are not those of the {len(train)} prompts that are left to train on: it may hold the ones that are measured as held "
        "out, and the measures are then of what was seen"
    )
    say_once(line)
    return line


def _measured(
    models: Sequence[HookedModel],
    recipe: Recipe,
    sae: SparseAutoencoder,
    curve: Sequence[CurvePoint],
    held_out: Sequence[Prompt],
    site: str,
    predicted: Sequence[Predicted],
) -> TrainedSae:
    """Step 4 for one autoencoder."""
    source = _source(models, held_out, site, keep=False)
    reconstruction = evaluate_reconstruction(sae, (source.block(number) for number in range(len(source))))
    entropy = without_far = None
    if predicted:
        measure = partial(spliced_cross_entropy, models[0], sae, predicted, site)
        entropy = measure()
        without_far = measure(leave_above=reconstruction.far.norm_above) if reconstruction.far.rows else None
    nearest = float(decoder_cosines(sae).mean())
    return TrainedSae(recipe, sae, curve, reconstruction, entropy, nearest, without_far)


def seed_stability(trained: Sequence[TrainedSae]) -> dict[str, Stability]:
    """Agreement of the seeds of each recipe that has several, by `Recipe.kind`; none of very wide autoencoders."""
    agreement = {}
    for kind, group in groupby(trained, key=lambda each: each.recipe.kind):
        saes = [each.sae for each in group]
        if len(saes) > 1 and saes[0].d_sae <= _STABLE_WIDTH:
            agreement[kind] = stability(saes)
    return agreement


def _check_models(wanted: Sequence[Recipe], models: Sequence[HookedModel]) -> None:
    crossed = {issubclass(architecture_class(recipe.architecture), Crosscoder) for recipe in wanted}
    if crossed != {len(models) == 2}:
        raise UserError("a crosscoder, and nothing else, is trained on two models: give --reference with it")


def _fresh(recipe: Recipe, models: Sequence[HookedModel], site: str) -> SparseAutoencoder:
    """An autoencoder before it is trained, that knows where its activations come from."""
    width = sum(model.info.d_model for model in models)
    sae = build_sae(recipe.architecture, width, recipe.width, recipe.seed, **recipe.settings)
    sae.metadata = _metadata(models, site)
    return sae.to(models[0].device)


def _source(
    models: Sequence[HookedModel],
    prompts: Sequence[Prompt],
    site: str,
    *,
    keep: bool,
    store: Path | None = None,
    executor: ExecutorConfig | None = None,
) -> ActivationSource:
    """One model's activations, or several models' side by side."""
    least = 2 * world_size() if world_size() > 1 else 1  # two for each process, so that passes differ
    if not keep:
        live = [ModelSource(model, prompts, site, least=least) for model in models]
        return _side_by_side(live) if executor is None else AheadSource(live, executor)
    spec = ExtractionSpec((site,), "every")
    stores = [
        store_activations(model, prompts, spec, root=store, total=len(prompts), executor=executor) for model in models
    ]
    return _side_by_side([StoreSource(stored, site, least=least) for stored in stores])


def _side_by_side(sources: Sequence[ActivationSource]) -> ActivationSource:
    return sources[0] if len(sources) == 1 else SideBySide(sources)


def _metadata(models: Sequence[HookedModel], site: str) -> dict[str, Any]:
    weights = [model.info.weights_sha256 for model in models]
    return {
        "model_name": models[0].info.name,
        "site": site,
        "weights_sha256": weights,
        ORIGIN: [provenance_of(model) for model in models],
        "prepend_bos": _begins_with_bos(models[0]),
    }


def _begins_with_bos(model: HookedModel) -> bool:
    """Whether the tokenizer's own special tokens begin with BOS, so that texts were read with it."""
    bos = model.tokenizer.bos_token_id
    return bos is not None and model.tokenizer("a", verbose=False)["input_ids"][0] == bos


def _origin(models: Sequence[HookedModel], prompts: Sequence[Prompt], activations: Path | None) -> dict[str, Any]:
    """What the activations depend on, for the checkpoints of a run."""
    if activations is None:
        read = prompts_sha256(prompts)
    else:
        read = f"{activations}: {sha256_file(activations / 'manifest.json')}"
    return {
        "weights": [model.info.weights_sha256 for model in models],
        "models": [identity_sha256(provenance_of(model) | {"computation": {}}) for model in models],
        "prompts": len(prompts),
        "read": read,
        "dtypes": [str(model.dtype) for model in models],
    }
