"""Trigger latents of an autoencoder, beside every baseline with the same budget: the table, the cards, agreement of seeds.

1. Features of all labelled prompts, of the autoencoder and of the baselines (`sae.trigger_latents.latents`, `sae.trigger_latents.baselines`).
2. For each label, `triggered` and `defects`, the best feature of each, chosen on training prompts and measured on test prompts.
   And the best probe on a few features of each (k-sparse probing, `sae.trigger_latents.probing`), since one thing may be split over several.
3. A control with shuffled labels, and a card for each of the best latents (`sae.trigger_latents.cards`), with what its ablation does where a
   function that measures it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, Prompt
from sae.architectures.core import SparseAutoencoder
from sae.architectures.crosscoder import Crosscoder
from sae.trigger_latents.ablation import AblationEffect, DirectionAblation, Edit, Measure, ablate
from sae.trigger_latents.baselines import fitted_dictionaries, plain_dictionaries
from sae.trigger_latents.cards import LatentCard, make_cards
from sae.trigger_latents.latents import (
    Dictionary,
    LatentScore,
    PromptLabels,
    prompt_activations,
    prompt_labels,
    rank_latents,
    read_features,
    shuffled_control,
)
from sae.trigger_latents.probing import SparseProbe, k_sparse_probe

if TYPE_CHECKING:
    import plotly.graph_objects as go

LABELS = ("triggered", "defects")
AUTOENCODER = "sparse autoencoder"
ALONE = "of the first model alone"
"""Ends the name of a crosscoder's latents that the second model lacks."""
TOGETHER = (4, 8, 16)
"""How many of the best latents are ablated at once: a dictionary may split one trigger over several (Bricken et al., 2023)."""
PROBED = (1, 4, 16)
"""Features of a k-sparse probe."""
OWN = 0.3
"""Relative decoder norm up to which a crosscoder's latent counts as the first model's own (arXiv:2504.02922)."""
_ROWS = 20_000
"""Training tokens that PCA and the random dictionary's origin are fitted on, at most."""


@dataclass(frozen=True)
class TriggerLatents:
    """What was found in one autoencoder."""

    site: str
    architecture: str
    width: int
    ranked: Mapping[str, tuple[LatentScore, ...]]
    """By label; nothing under a label that a split has one class of."""
    baselines: Mapping[str, Mapping[str, LatentScore]]
    """By label and name: the best feature of each."""
    shuffled: Mapping[str, LatentScore | None]
    """By label: the best latent for shuffled labels."""
    probes: Mapping[str, Mapping[str, Mapping[int, SparseProbe]]]
    """By label, dictionary and k: a probe on k of its features."""
    cards: tuple[LatentCard, ...]
    together: Mapping[str, Mapping[int, AblationEffect]]
    """By label and count: what ablating so many of its best latents at once does; empty where it was not measured."""
    test_prompts: int
    test_triggered: int
    test_defects: int

    def best(self, label: str) -> LatentScore | None:
        """The best latent for a label."""
        return next(iter(self.ranked[label]), None)

    def figure(self, label: str = "defects") -> go.Figure:
        """Test AUROC of the best latent beside each baseline's best feature and the shuffled control.

        Raises:
            UserError: no latent was ranked for that label.
        """
        from sae.plots import latent_figure

        return latent_figure(self, label)

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return _plain(asdict(self))


def find_trigger_latents(
    models: Sequence[HookedModel],
    prompts: Sequence[Prompt],
    site: str,
    sae: SparseAutoencoder,
    *,
    labels: PromptLabels | None = None,
    measure: Measure | None = None,
    top: int = 5,
    seed: int = 0,
) -> TriggerLatents:
    """Search one autoencoder.

    Args:
        models: the model, or those of a crosscoder, the one under suspicion first.
        prompts: labelled.
        site: what the autoencoder was trained on.
        sae: which takes raw activations.
        labels: of the prompts; `prompt_labels(prompts)` where None.
        measure: what an edit does to the (first) model; ablations are not measured where None.
        top: latents that get a card, of each label.
        seed: of the bootstrap, the shuffling and the random dictionary.

    Raises:
        UserError: as `prompt_labels` and `read_features`.
    """
    labels = labels or prompt_labels(prompts)
    values = _all_features(models, prompts, site, sae, labels, seed)
    ranked = {
        name: rank_latents(values[name][AUTOENCODER], labels.of(name), labels, top=max(*TOGETHER, top), seed=seed)
        for name in LABELS
    }
    baselines = {
        name: {
            other: found[0]
            for other, features in values[name].items()
            if other != AUTOENCODER and (found := rank_latents(features, labels.of(name), labels, top=1, seed=seed))
        }
        for name in LABELS
    }
    if isinstance(sae, Crosscoder):
        baselines = {
            name: found | _own_latents(values[name][AUTOENCODER], name, sae, labels, seed)
            for name, found in baselines.items()
        }
    shuffled = {
        name: shuffled_control(values[name][AUTOENCODER], labels.of(name), labels, seed=seed) for name in LABELS
    }
    probes = {name: sparse_probes(values[name], labels.of(name), labels) for name in LABELS}
    latents = dict.fromkeys(score.latent for scores in ranked.values() for score in scores[:top])
    effects: dict[int, AblationEffect] = {}
    if measure is not None:
        effects = {latent: measure(site, edit_of(sae, [latent])) for latent in latents}
    together = {
        name: {
            count: measure(site, edit_of(sae, [one.latent for one in scores[:count]]))
            for count in TOGETHER
            if len(scores) >= count
        }
        for name, scores in ranked.items()
        if measure is not None
    }
    norms = sae.relative_norms().tolist() if isinstance(sae, Crosscoder) else None
    cards = make_cards(
        models, prompts, site, sae.encode, ranked, labels, effects=effects, relative_norms=norms, top=top
    )
    counts = (int(side[labels.test].sum()) for side in (labels.test, labels.triggered, labels.defects))
    return TriggerLatents(
        site, sae.architecture, sae.d_sae, ranked, baselines, shuffled, probes, cards, together, *counts
    )


def sparse_probes(
    values: Mapping[str, Float[np.ndarray, "prompt aggregation _"]],
    positive: Bool[np.ndarray, "prompt"],
    labels: PromptLabels,
) -> dict[str, dict[int, SparseProbe]]:
    """A probe on k features of each dictionary, chosen and fitted on training prompts; an aggregation counts as a feature.

    Args:
        values: from `read_features`.
        positive: what to predict.
        labels: the split.

    Returns:
        By dictionary and k; dictionaries with fewer features are left out, and all where a split lacks a class.
    """
    test = labels.test
    if any(len(np.unique(positive[side])) < 2 for side in (test, ~test)):
        return {}
    flat = {name: found.reshape(len(found), -1) for name, found in values.items()}
    return {
        name: {k: k_sparse_probe(x[~test], positive[~test], x[test], positive[test], k) for k in PROBED}
        for name, x in flat.items()
        if x.shape[1] >= max(PROBED)
    }


def _own_latents(
    values: Float[np.ndarray, "prompt aggregation latent"],
    label: str,
    sae: Crosscoder,
    labels: PromptLabels,
    seed: int,
) -> dict[str, LatentScore]:
    """The best of the latents that only the first model has: a row of the same table."""
    own = np.flatnonzero(sae.relative_norms().cpu().numpy() <= OWN)
    if not len(own):
        return {}
    found = rank_latents(values[:, :, own], labels.of(label), labels, top=1, seed=seed)
    return {f"{len(own)} {ALONE}": replace(one, latent=int(own[one.latent])) for one in found}


def _all_features(
    models: Sequence[HookedModel],
    prompts: Sequence[Prompt],
    site: str,
    sae: SparseAutoencoder,
    labels: PromptLabels,
    seed: int,
) -> dict[str, dict[str, Float[np.ndarray, "prompt aggregation feature"]]]:
    """Step 1: by label and dictionary. Only fitted baselines differ between labels."""
    rows = training_rows(models, prompts, site, labels)
    k = getattr(sae, "k", None) or round(float((sae.encode(rows[:2000]) > 0).sum(1).float().mean()))
    shared: dict[str, Dictionary] = {AUTOENCODER: sae.encode} | plain_dictionaries(
        rows, width=sae.d_sae, k=k, seed=seed
    )
    values = read_features(models, prompts, site, shared | {"activations": lambda x: x})
    activations = values.pop("activations")
    train = ~labels.test
    fitted = {
        f"{name}/{label}": dictionary
        for label in LABELS
        if len(set(labels.of(label)[train].tolist())) == 2
        for name, dictionary in fitted_dictionaries(activations[train], labels.of(label)[train]).items()
    }
    dense = read_features(models, prompts, site, fitted)
    return {
        label: values | {name.split("/")[0]: found for name, found in dense.items() if name.split("/")[1] == label}
        for label in LABELS
    }


def training_rows(
    models: Sequence[HookedModel], prompts: Sequence[Prompt], site: str, labels: PromptLabels
) -> Float[Tensor, "row d_in"]:
    """Activations of training tokens, without each prompt's first; of the first prompts where there are many."""
    chosen = [prompt for prompt, test in zip(prompts, labels.test, strict=True) if not test]
    found = [rows[1:] for _, rows in prompt_activations(models, chosen, site)]
    every = torch.cat(found)
    return every[torch.linspace(0, len(every) - 1, min(_ROWS, len(every))).long()]


def edit_of(sae: SparseAutoencoder, latents: Sequence[int], values: Sequence[float] | None = None) -> Edit:
    """The ablation of latents as an edit of the model's own activations.

    A crosscoder's latents need both models to be computed, so of these the first model's decoder rows are projected out.
    """
    if not isinstance(sae, Crosscoder):
        return ablate(sae, latents, values)
    edits = [DirectionAblation(_unit(_first_rows(sae)[latent]), 0.0) for latent in latents]

    def edit(value: Tensor) -> Tensor:
        for one in edits:
            value = one(value)
        return value

    return edit


def _first_rows(sae: Crosscoder) -> Float[Tensor, "latent d_model"]:
    return sae.W_dec.detach()[:, : sae.d_in // sae.models]


def _unit(row: Float[Tensor, "d_in"]) -> Float[Tensor, "d_in"]:
    return row / row.norm().clamp_min(1e-12)


def latent_cosines(saes: Sequence[SparseAutoencoder], latents: Sequence[int]) -> list[float]:
    """Cosine of the decoder rows of one latent of each autoencoder, of every two: do seeds find the same one?"""
    rows = [_unit(sae.W_dec.detach()[latent]) for sae, latent in zip(saes, latents, strict=True)]
    return [float(a @ b) for a, b in combinations(rows, 2)]


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and isnan(value) else value
