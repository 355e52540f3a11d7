"""What a training run gives: the autoencoders with what was measured of them, as JSON and as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

from sae.architectures.core import SparseAutoencoder
from sae.config import Recipe, TrainConfig
from sae.evaluate import CrossEntropy
from sae.reconstruction import Reconstruction
from sae.saelens_files import save_sae, write_sae
from sae.train import CurvePoint
from sae.trigger_latents.stability import Stability
from triggerlens import to_json


@dataclass(frozen=True)
class TrainedSae:
    """One autoencoder with what was measured on held-out prompts."""

    recipe: Recipe
    """What was asked for."""
    sae: SparseAutoencoder
    """The trained autoencoder."""
    curve: Sequence[CurvePoint]
    """Of training batches."""
    reconstruction: Reconstruction
    """Of held-out activations."""
    cross_entropy: CrossEntropy | None
    """None for a crosscoder, which reads two models at once, and where no held-out prompt has a token to predict."""
    nearest_cosine: float
    """Mean cosine of decoder rows with their nearest neighbour."""
    cross_entropy_without_far: CrossEntropy | None = None
    """With the far rows' activations left alone; None where there are no far rows, and where the one with them is None."""

    def to_json(self) -> dict[str, Any]:
        """All but the weights, in one object."""
        return {
            "name": self.recipe.name,
            "architecture": self.recipe.architecture,
            "width": self.recipe.width,
            "seed": self.recipe.seed,
            **self.recipe.settings,
            "reconstruction": to_json(self.reconstruction),
            "cross_entropy": _entropy_json(self.cross_entropy),
            "cross_entropy_without_far": _entropy_json(self.cross_entropy_without_far),
            "nearest_cosine": self.nearest_cosine,
            "training_curve": [to_json(point) for point in self.curve],
        }


@dataclass(frozen=True)
class SaeResult:
    """Autoencoders that were trained on one stream, in the order asked for. Iterating over it gives them one by one."""

    site: str
    """Where the activations were read."""
    config: TrainConfig
    """How they were trained."""
    autoencoders: tuple[TrainedSae, ...]
    """None where this is not the first process of several."""
    stability: Mapping[str, Stability]
    """Agreement of the seeds of each recipe that has several, by `Recipe.kind`."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the numbers."""

    def __iter__(self) -> Iterator[TrainedSae]:
        return iter(self.autoencoders)

    def __len__(self) -> int:
        return len(self.autoencoders)

    @property
    def best(self) -> TrainedSae:
        """The one that leaves the least variance unexplained, of rows that are not far."""
        return min(self.autoencoders, key=lambda trained: trained.reconstruction.without_far.fvu)

    def to_json(self) -> dict[str, Any]:
        """As in `metrics.json`: everything that was measured, on held-out prompts unless it says training."""
        return {
            "training": asdict(self.config),
            "autoencoders": [trained.to_json() for trained in self.autoencoders],
            "stability": {name: to_json(stability) for name, stability in self.stability.items()},
            "notes": list(self.notes),
        }


def _entropy_json(entropy: CrossEntropy | None) -> dict[str, Any] | None:
    if entropy is None:
        return None
    recovered = entropy.recovered
    return {**to_json(entropy), "recovered": None if isnan(recovered) else recovered}


def write_trained(trained: Sequence[TrainedSae], folder: Path) -> None:
    """Write one autoencoder into an existing folder, or each of several into a folder of its own there."""
    for each in trained:
        each.sae.metadata["evaluation"] = asdict(each.reconstruction)
        if len(trained) == 1:
            write_sae(each.sae, folder)
        else:
            save_sae(each.sae, folder / each.recipe.name)
