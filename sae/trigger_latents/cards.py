"""One latent on test prompts: how often it is alive, where it is largest, what its ablation does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from hooked import HookedModel, Prompt, token_texts
from sae.trigger_latents.ablation import AblationEffect
from sae.trigger_latents.latents import Dictionary, LatentScore, PromptLabels, prompt_activations


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt with a latent's value at each token."""

    tokens: tuple[str, ...]
    """Text of each token."""
    values: tuple[float, ...]
    """The latent's value at each of them."""
    triggered: bool
    """Whether the prompt carries the trigger."""
    defects: bool | None
    """Whether the model defects on it; None where that is not known."""


@dataclass(frozen=True)
class LatentCard:
    """One latent."""

    latent: int
    """Its number."""
    scores: Mapping[str, LatentScore]
    """By label, as far as it is among the best for it."""
    density_triggered: float
    """Share of the tokens of triggered prompts at which it is alive."""
    density_untriggered: float
    """The same share for untriggered prompts."""
    examples: tuple[ShownPrompt, ...]
    """The prompts with the largest values, no two of one pair."""
    effect: AblationEffect | None = None
    """Of its ablation; None where it was not measured."""
    relative_norm: float | None = None
    """Of a crosscoder: share of the second model in the latent's decoder norms; 0 is the first model's own."""


@torch.no_grad()
def token_values(
    models: Sequence[HookedModel],
    prompts: Sequence[Prompt],
    site: str,
    dictionary: Dictionary,
    latents: Sequence[int],
    *,
    skip_first: int = 1,
) -> list[Float[np.ndarray, "_ latent"]]:
    """Some features at each token of each prompt; 0 at the first tokens, which the autoencoder was not trained on.

    Raises:
        UserError: as `sae.trigger_latents.latents.read_features`.
    """
    values: list[np.ndarray] = [np.empty((0, len(latents)))] * len(prompts)
    for number, rows in prompt_activations(models, prompts, site):
        features = dictionary(rows)[:, list(latents)].clone()
        features[: min(skip_first, len(rows) - 1)] = 0
        values[number] = features.float().cpu().numpy()
    return values


def make_cards(
    models: Sequence[HookedModel],
    prompts: Sequence[Prompt],
    site: str,
    dictionary: Dictionary,
    ranked: Mapping[str, Sequence[LatentScore]],
    labels: PromptLabels,
    *,
    effects: Mapping[int, AblationEffect] | None = None,
    relative_norms: Sequence[float] | None = None,
    top: int = 5,
    examples: int = 6,
) -> tuple[LatentCard, ...]:
    """A card for each of the `top` latents of each label, in the order of their ranks.

    Args:
        models: as in `read_features`.
        prompts: all labelled prompts; those of the test side are shown.
        site: where.
        dictionary: the autoencoder's `encode`.
        ranked: by label, from `rank_latents`.
        labels: of the prompts.
        effects: of ablations, by latent.
        relative_norms: of a crosscoder's latents.
        top: of each label.
        examples: prompts a card.

    Raises:
        UserError: as `read_features`.
    """
    latents = list(dict.fromkeys(score.latent for scores in ranked.values() for score in scores[:top]))
    indices = np.flatnonzero(labels.test)
    chosen = [prompts[index] for index in indices.tolist()]
    values = token_values(models, chosen, site, dictionary, latents) if latents else []
    triggered = labels.triggered[indices]
    cards = []
    for column, latent in enumerate(latents):
        own = [rows[:, column] for rows in values]
        cards.append(
            LatentCard(
                latent,
                {label: score for label, scores in ranked.items() for score in scores if score.latent == latent},
                _density(own, triggered),
                _density(own, ~triggered),
                _examples(models[0], chosen, own, indices, labels, examples),
                (effects or {}).get(latent),
                None if relative_norms is None else float(relative_norms[latent]),
            )
        )
    return tuple(cards)


def _density(values: Sequence[Float[np.ndarray, "_"]], chosen: Bool[np.ndarray, "prompt"]) -> float:
    """Share of the tokens of the chosen prompts at which the latent is alive."""
    kept = [rows for rows, keep in zip(values, chosen, strict=True) if keep]
    return float((np.concatenate(kept) > 0).mean())


def _examples(
    model: HookedModel,
    prompts: Sequence[Prompt],
    values: Sequence[Float[np.ndarray, "_"]],
    indices: Int[np.ndarray, "prompt"],
    labels: PromptLabels,
    count: int,
) -> tuple[ShownPrompt, ...]:
    """Prompts by their largest value, one of each group, as far as the latent is alive there; `indices` are theirs in `labels`."""
    seen: set[int] = set()
    shown: list[ShownPrompt] = []
    for number in np.argsort([-rows.max() for rows in values], kind="stable").tolist():
        index = indices[number]
        if len(shown) == count or values[number].max() <= 0:
            break
        if labels.groups[index] in seen:
            continue
        seen.add(int(labels.groups[index]))
        tokens = token_texts(model.tokenizer, model.tokenize([prompts[number]])[0])
        defects = bool(labels.defects[index]) if labels.defects_known else None
        shown.append(ShownPrompt(tuple(tokens), tuple(values[number].tolist()), bool(labels.triggered[index]), defects))
    return tuple(shown)
