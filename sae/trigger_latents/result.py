"""What was found in one autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae.trigger_latents.ablation import AblationEffect
from sae.trigger_latents.cards import LatentCard
from sae.trigger_latents.latents import LatentScore
from sae.trigger_latents.probing import SparseProbe
from triggerlens import to_json

LABELS = ("triggered", "defects")
"""What a latent may tell of a prompt."""
AUTOENCODER = "sparse autoencoder"
"""Name of the autoencoder among the dictionaries that it is held against."""


@dataclass(frozen=True)
class OwnLatents:
    """Latents of a crosscoder that the second model lacks."""

    count: int
    """How many there are."""
    best: LatentScore
    """The best of them."""


@dataclass(frozen=True)
class TriggerLatents:
    """What was found in one autoencoder."""

    site: str
    """Where it reads."""
    architecture: str
    """One of `ARCHITECTURES`."""
    width: int
    """Number of latents."""
    ranked: Mapping[str, tuple[LatentScore, ...]]
    """By label; nothing under a label that a split has one class of, or that is not known of all prompts."""
    baselines: Mapping[str, Mapping[str, LatentScore]]
    """By label and name: the best feature of each."""
    own: Mapping[str, OwnLatents]
    """By label, of a crosscoder that has latents of the first model alone."""
    shuffled: Mapping[str, LatentScore | None]
    """By label: the best latent for shuffled labels."""
    probes: Mapping[str, Mapping[str, Mapping[int, SparseProbe]]]
    """By label, dictionary and k: a probe on k of its features."""
    cards: tuple[LatentCard, ...]
    """The best latents, each with prompts and its effect."""
    together: Mapping[str, Mapping[int, AblationEffect]]
    """By label and count: what ablating so many of its best latents at once does; empty where it was not measured."""
    test_prompts: int
    """Prompts that are reported on. Here and below, of each pair (or set of copies) the triggered prompts count once, and the untriggered ones once."""
    test_triggered: int
    """Of these, those with the trigger."""
    test_defects: int
    """Of these, those on which the model defects."""
    test_harmless: int
    """Of these, those on which it does not. A prompt with answers of both sorts is among both; where it is not known on which the model defects, both are 0."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the numbers."""

    @property
    def defects_known(self) -> bool:
        """Whether it is known on which prompts the model defects."""
        return self.test_defects + self.test_harmless > 0

    def best(self, label: str) -> LatentScore | None:
        """The best latent for a label."""
        return next(iter(self.ranked[label]), None)

    def best_baseline(self, label: str) -> tuple[str, LatentScore] | None:
        """Name and best feature of the baseline with the highest test AUROC for a label."""
        return max(self.baselines[label].items(), key=lambda item: item[1].auroc.value, default=None)

    def to_json(self) -> dict[str, Any]:
        """One object, which `triggerlens.from_json` reads back."""
        record: dict[str, Any] = to_json(self)
        return record
