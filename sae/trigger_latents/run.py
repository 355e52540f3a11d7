"""Trigger latents of an autoencoder, beside every baseline with the same budget: the table, the cards, agreement of seeds.

1. Features of all labelled prompts, of the autoencoder and of the baselines (`sae.trigger_latents.latents`, `sae.trigger_latents.baselines`).
2. For each label, `triggered` and `defects`, the best feature of each, chosen on training prompts and measured on test prompts, with a
   control with shuffled labels. And the best probe on a few features of each (k-sparse probing, `sae.trigger_latents.probing`), since one
   thing may be split over several.
3. Where a function that measures edits is given, what ablating the best latents does, alone and together.
4. A card for each of the best latents (`sae.trigger_latents.cards`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import Edit, HookedModel, Prompt
from sae.architectures.core import SparseAutoencoder
from sae.architectures.crosscoder import Crosscoder
from sae.architectures.topk import TopK
from sae.origin import other_model
from sae.trigger_latents.ablation import AblationEffect, DirectionAblation, Measure, ablate
from sae.trigger_latents.baselines import fitted_dictionaries, plain_dictionaries
from sae.trigger_latents.cards import make_cards
from sae.trigger_latents.config import LatentsConfig
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
from sae.trigger_latents.result import AUTOENCODER, LABELS, OwnLatents, TriggerLatents

OWN = 0.3
"""Relative decoder norm up to which a crosscoder's latent counts as the first model's own (arXiv:2504.02922)."""
_ROWS = 20_000
"""Training tokens that PCA and the random dictionary's origin are fitted on, at most."""

Features = Mapping[str, Float[np.ndarray, "prompt aggregation feature"]]
"""Of each dictionary, by its name."""


def find_trigger_latents(
    models: Sequence[HookedModel],
    prompts: Sequence[Prompt],
    site: str,
    sae: SparseAutoencoder,
    config: LatentsConfig | None = None,
    *,
    labels: PromptLabels | None = None,
    measure: Measure | None = None,
) -> TriggerLatents:
    """Search one autoencoder.

    Args:
        models: the model, or those of a crosscoder, the one under suspicion first.
        prompts: labelled.
        site: what the autoencoder was trained on.
        sae: which takes raw activations.
        config: how to search.
        labels: of the prompts; `prompt_labels` of them and of the first model's tokens where None.
        measure: what an edit does to the (first) model; ablations are not measured where None.

    Raises:
        UserError: as `prompt_labels` and `read_features`.
    """
    config = config or LatentsConfig()
    labels = labels or prompt_labels(prompts, config.seed, tokens=[row.ids for row in models[0].tokenize(prompts)])
    other = other_model(sae, models)
    features = _all_features(models, prompts, site, sae, labels, config.seed)  # 1
    ranked = {label: _ranked(features[label][AUTOENCODER], label, labels, config) for label in LABELS}  # 2
    effects, together = _ablated(sae, site, ranked, measure, config)  # 3
    norms = sae.relative_norms().tolist() if isinstance(sae, Crosscoder) else None
    cards = make_cards(  # 4
        models, prompts, site, sae.encode, ranked, labels, effects=effects, relative_norms=norms, top=config.top
    )
    test = labels.test
    return TriggerLatents(
        site=site,
        architecture=sae.architecture,
        width=sae.d_sae,
        ranked=ranked,
        baselines={label: _best_of_each(features[label], label, labels) for label in LABELS},
        own=_own_latents(features, sae, labels) if isinstance(sae, Crosscoder) else {},
        shuffled={
            label: shuffled_control(features[label][AUTOENCODER], labels.of(label), labels, seed=config.seed)
            for label in LABELS
        },
        probes={label: sparse_probes(features[label], labels.of(label), labels, config.probed) for label in LABELS},
        cards=cards,
        together=together,
        test_prompts=labels.prompts(test),
        test_triggered=labels.prompts(test & labels.triggered),
        test_defects=labels.prompts(test & labels.defects),
        test_harmless=labels.prompts(test & ~labels.defects) if labels.defects_known else 0,
        notes=(*labels.notes, *([other] if other else [])),
    )


def _ranked(
    values: Float[np.ndarray, "prompt aggregation latent"], label: str, labels: PromptLabels, config: LatentsConfig
) -> tuple[LatentScore, ...]:
    """The autoencoder's best latents: as many as get a card or are ablated at once."""
    return rank_latents(values, labels.of(label), labels, top=max(*config.together, config.top))


def _best_of_each(features: Features, label: str, labels: PromptLabels) -> dict[str, LatentScore]:
    """The best feature of each baseline, by its name."""
    ranked = {
        name: rank_latents(values, labels.of(label), labels, top=1)
        for name, values in features.items()
        if name != AUTOENCODER
    }
    return {name: scores[0] for name, scores in ranked.items() if scores}


def _own_latents(features: Mapping[str, Features], sae: Crosscoder, labels: PromptLabels) -> dict[str, OwnLatents]:
    """By label, the best of the latents that only the first model has."""
    own = np.flatnonzero(sae.relative_norms().cpu().numpy() <= OWN)
    if not len(own):
        return {}
    best = {}
    for label in LABELS:
        values = features[label][AUTOENCODER][:, :, own]
        for score in rank_latents(values, labels.of(label), labels, top=1):
            best[label] = OwnLatents(len(own), replace(score, latent=int(own[score.latent])))
    return best


def sparse_probes(
    features: Features, positive: Bool[np.ndarray, "prompt"], labels: PromptLabels, counts: Sequence[int]
) -> dict[str, dict[int, SparseProbe]]:
    """A probe on k features of each dictionary, chosen and fitted on training prompts; an aggregation counts as a feature.

    Args:
        features: from `read_features`.
        positive: what to predict.
        labels: the split and groups.
        counts: the values of k.

    Returns:
        By dictionary and k; dictionaries with fewer features are left out, and all where a split lacks a class.
    """
    test = labels.test
    if any(len(np.unique(positive[side])) < 2 for side in (test, ~test)):
        return {}
    flat = {name: values.reshape(len(values), -1) for name, values in features.items()}
    return {
        name: {
            k: k_sparse_probe(x[~test], positive[~test], x[test], positive[test], k, labels.groups[test])
            for k in counts
        }
        for name, x in flat.items()
        if x.shape[1] >= max(counts)
    }


def _ablated(
    sae: SparseAutoencoder,
    site: str,
    ranked: Mapping[str, Sequence[LatentScore]],
    measure: Measure | None,
    config: LatentsConfig,
) -> tuple[dict[int, AblationEffect], dict[str, dict[int, AblationEffect]]]:
    """Step 3: by latent, and by label and count; nothing where nothing measures it."""
    if measure is None:
        return {}, {}
    best = {label: [score.latent for score in scores] for label, scores in ranked.items()}
    latents = dict.fromkeys(latent for own in best.values() for latent in own[: config.top])
    alone = {latent: measure(site, edit_of(sae, [latent])) for latent in latents}
    together = {
        label: {count: measure(site, edit_of(sae, own[:count])) for count in config.together if len(own) >= count}
        for label, own in best.items()
    }
    return alone, together


def _all_features(
    models: Sequence[HookedModel],
    prompts: Sequence[Prompt],
    site: str,
    sae: SparseAutoencoder,
    labels: PromptLabels,
    seed: int,
) -> dict[str, Features]:
    """Step 1: by label and dictionary. Only fitted baselines differ between labels."""
    rows = training_rows(models, prompts, site, labels)
    shared: dict[str, Dictionary] = {AUTOENCODER: sae.encode} | plain_dictionaries(
        rows, width=sae.d_sae, k=alive(sae, rows), seed=seed
    )
    values = read_features(models, prompts, site, shared | {"activations": lambda x: x})
    activations = values.pop("activations")
    train = ~labels.test
    fitted = {
        (label, name): dictionary
        for label in LABELS
        if len(np.unique(labels.of(label)[train])) == 2
        for name, dictionary in fitted_dictionaries(activations[train], labels.of(label)[train]).items()
    }
    dense = read_features(models, prompts, site, fitted)
    return {
        label: values | {name: features for (of, name), features in dense.items() if of == label} for label in LABELS
    }


def alive(sae: SparseAutoencoder, rows: Float[Tensor, "row d_in"]) -> int:
    """Latents that are not 0 a token: what a TopK keeps, of all tokens or on average; of the others, for which a `k` is at most an aim, as measured."""
    return sae.k if isinstance(sae, TopK) else round(float((sae.encode(rows[:2000]) > 0).sum(1).float().mean()))


def training_rows(
    models: Sequence[HookedModel], prompts: Sequence[Prompt], site: str, labels: PromptLabels
) -> Float[Tensor, "row d_in"]:
    """Activations of training tokens, without each prompt's first; evenly over all where there are many."""
    chosen = [prompt for prompt, test in zip(prompts, labels.test, strict=True) if not test]
    every = torch.cat([rows[1:] for _, rows in prompt_activations(models, chosen, site)])
    return every[torch.linspace(0, len(every) - 1, min(_ROWS, len(every))).long()]


def edit_of(sae: SparseAutoencoder, latents: Sequence[int], values: Sequence[float] | None = None) -> Edit:
    """The ablation of latents as an edit of the model's own activations.

    A crosscoder's latents need both models to be computed, so of these the first model's decoder rows are projected out, one after another: as rows are not
    at right angles, a little may stay along the earlier ones.
    """
    if not isinstance(sae, Crosscoder):
        return ablate(sae, latents, values)
    rows = sae.W_dec.detach()[:, : sae.d_in // sae.models]
    return _one_after_another(DirectionAblation(_unit(rows[latent]), 0.0) for latent in latents)


def _one_after_another(edits: Iterable[Edit]) -> Edit:
    every = tuple(edits)

    def edit(value: Tensor) -> Tensor:
        for change in every:
            value = change(value)
        return value

    return edit


def _unit(row: Float[Tensor, "d_in"]) -> Float[Tensor, "d_in"]:
    return row / row.norm().clamp_min(1e-12)


def latent_cosines(saes: Sequence[SparseAutoencoder], latents: Sequence[int]) -> list[float]:
    """Cosine of the decoder rows of one latent of each autoencoder, of every two: do seeds find the same one?"""
    rows = [_unit(sae.W_dec.detach()[latent]) for sae, latent in zip(saes, latents, strict=True)]
    return [float(a @ b) for a, b in combinations(rows, 2)]
