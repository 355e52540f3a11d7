"""From a model and texts to trained and measured autoencoders.

1. Prompts are split into those to train on and those to measure on, and brought into a random order.
2. Activations of every token come from the store, written once, or from the model itself, which then runs in every pass.
3. All autoencoders are trained on the same batches.
4. Each is measured on the held-out prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hooked import ActivationStore, ExtractionSpec, HookedModel, Prompt, store_activations
from sae.architectures.core import SparseAutoencoder
from sae.architectures.crosscoder import Crosscoder
from sae.architectures.gated import Gated
from sae.architectures.relu import ReLU
from sae.config import TrainConfig
from sae.evaluate import (
    CrossEntropy,
    Reconstruction,
    decoder_cosines,
    evaluate_cross_entropy,
    evaluate_reconstruction,
)
from sae.saelens_files import build_sae, save_sae, write_sae
from sae.stream import ActivationSource, ModelSource, SideBySide, StoreSource
from sae.texts import train_and_held_out
from sae.train import CurvePoint, train_saes
from triggerlens import UserError, rank, world_size


@dataclass(frozen=True)
class Recipe:
    """One autoencoder to train."""

    architecture: str
    width: int
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As its folder is called."""
        settings = "".join(f"-{key[0]}{value:g}" for key, value in self.settings.items())
        return f"{self.architecture}-w{self.width}{settings}-s{self.seed}"


@dataclass(frozen=True)
class TrainedSae:
    """One autoencoder with what was measured on held-out prompts."""

    recipe: Recipe
    sae: SparseAutoencoder
    curve: Sequence[CurvePoint]
    reconstruction: Reconstruction
    cross_entropy: CrossEntropy | None
    """None for a crosscoder, which reads two models at once."""
    nearest_cosine: float
    """Mean cosine of decoder rows with their nearest neighbour."""


def recipes(
    architectures: Sequence[str],
    widths: Sequence[int],
    ks: Sequence[int],
    penalties: Sequence[float],
    seeds: Sequence[int],
) -> list[Recipe]:
    """Every combination; architectures that have a penalty's weight take it in place of k."""
    penalised = (Gated.architecture, ReLU.architecture)
    return [
        Recipe(architecture, width, seed, settings)
        for architecture, width in product(architectures, widths)
        for settings in ([{"penalty": p} for p in penalties] if architecture in penalised else [{"k": k} for k in ks])
        for seed in seeds
    ]


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
    **options: Any,
) -> list[TrainedSae]:
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
        **options: `checkpoints` and `restart` of `train_saes`.

    Returns:
        The autoencoders in the order asked for; nothing where this is not the first process.

    Raises:
        UserError: as the steps do, or a crosscoder without a second model.
    """
    models = [model] if other is None else [model, other]
    crossed = {recipe.architecture == Crosscoder.architecture for recipe in wanted}
    if crossed != {other is not None}:
        raise UserError("a crosscoder, and nothing else, is trained on two models: give --against with it")
    train, held_out = train_and_held_out(prompts, config.seed)
    width = sum(one.info.d_model for one in models)
    saes = [build_sae(one.architecture, width, one.width, one.seed, **one.settings) for one in wanted]
    for sae in saes:
        sae.to(model.device)
        sae.metadata = _metadata(models, site)
    if activations is not None:
        source: ActivationSource = StoreSource(ActivationStore(activations), site)
    else:
        source = _source(models, train, site, store=store, keep=keep)
    identity = {"site": site, "activations": _origin(models, train, activations)}
    curves = train_saes(source, saes, config, identity=identity, **options)
    if rank() != 0:
        return []
    measured = _source(models, held_out, site, keep=False)
    return [
        TrainedSae(
            recipe,
            sae,
            curve,
            evaluate_reconstruction(sae, _blocks(measured)),
            None if other else evaluate_cross_entropy(model, sae, held_out[:], site, answer_tokens=answer_tokens),
            float(decoder_cosines(sae).mean()),
        )
        for recipe, sae, curve in zip(wanted, saes, curves, strict=True)
    ]


def _source(
    models: Sequence[HookedModel], prompts: Sequence[Prompt], site: str, *, keep: bool, store: Path | None = None
) -> ActivationSource:
    """One model's activations, or several models' side by side."""
    sources: list[ActivationSource] = []
    least = 2 * world_size() if world_size() > 1 else 1  # two for each process, so that passes differ
    for model in models:
        if keep:
            spec = ExtractionSpec((site,), "every")
            stored = store_activations(model, prompts, spec, root=store, total=len(prompts))
            sources.append(StoreSource(stored, site, least=least))
        else:
            sources.append(ModelSource(model, prompts, site, least=least))
    return sources[0] if len(sources) == 1 else SideBySide(sources)


def _blocks(source: ActivationSource) -> Iterator[Float[Tensor, "row d_in"]]:
    for number in range(len(source)):
        yield source.block(number)


def _metadata(models: Sequence[HookedModel], site: str) -> dict[str, Any]:
    weights = [model.info.weights_sha256 for model in models]
    return {"model_name": models[0].info.name, "site": site, "weights_sha256": weights, "prepend_bos": True}


def _origin(models: Sequence[HookedModel], prompts: Sequence[Prompt], activations: Path | None) -> dict[str, Any]:
    """What the activations depend on, for the checkpoints of a run."""
    first = [prompts[place].prompt for place in (0, len(prompts) // 2, -1)]
    return {
        "weights": [model.info.weights_sha256 for model in models],
        "prompts": len(prompts),
        "first": first if activations is None else str(activations),
    }


def write_trained(trained: Sequence[TrainedSae], folder: Path) -> None:
    """Write one autoencoder into an existing folder, or each of several into a folder of its own there."""
    for one in trained:
        one.sae.metadata["evaluation"] = asdict(one.reconstruction)
        if len(trained) == 1:
            write_sae(one.sae, folder)
        else:
            save_sae(one.sae, folder / one.recipe.name)
