"""Edits that ablate latents or directions: which are tried, and which is chosen on validation pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hooked import Edit, HookedModel, Prompt
from sae import (
    AGGREGATIONS,
    LABELS,
    AblationEffect,
    DirectionAblation,
    Measure,
    ModelSource,
    PromptLabels,
    SparseAutoencoder,
    TriggerLatents,
    edit_of,
    fitted_dictionaries,
    read_features,
)
from triggerlens import to_json

NO_HARM = 0.01
"""Divergence on untriggered prompts, in nats a step, up to which an edit counts as doing no harm."""
NEAREST = 10
"""Latents alive most nearly as often as one of the trigger's, among which its placebo is drawn."""


@dataclass(frozen=True)
class Candidate:
    """An edit that may be chosen, and what the result says of it."""

    site: str
    edit: Edit
    facts: Mapping[str, Any]
    """`kind`, and where it has them `label` and `latents`."""


def latent_candidates(
    site: str, sae: SparseAutoencoder, search: TriggerLatents, together: Sequence[int]
) -> list[Candidate]:
    """The best latents for each label, alone and as many together as each of the numbers says."""
    return [
        Candidate(
            site,
            edit_of(sae, latents := [score.latent for score in search.ranked[label][:count]]),
            {"kind": "one latent" if count == 1 else "latents together", "label": label, "latents": latents},
        )
        for label in LABELS
        for count in together
        if len(search.ranked[label]) >= count
    ]


def placebo_candidates(
    model: HookedModel, prompts: Sequence[Prompt], site: str, sae: SparseAutoencoder, search: TriggerLatents, seed: int
) -> list[Candidate]:
    """For each of the trigger's latents that are ranked, which are as many as the most that are tried together, a random one of those that are alive
    most nearly as often."""
    chosen = [score.latent for score in search.ranked["triggered"]]
    rows = ModelSource(model, prompts, site).block(0).to(sae.W_dec.device)
    alive = (sae.encode(rows) > 0).float().mean(0).cpu().numpy()
    draw = np.random.default_rng(seed)
    drawn: list[int] = []
    for latent in chosen:
        order = np.argsort(np.abs(alive - alive[latent]))
        near = [int(other) for other in order if other not in {*chosen, *drawn}]
        drawn.append(int(draw.choice(near[:NEAREST])))
    return [Candidate(site, edit_of(sae, drawn), {"kind": "random latents", "latents": drawn})]


def direction_candidates(
    model: HookedModel, prompts: Sequence[Prompt], labels: PromptLabels, site: str
) -> list[Candidate]:
    """Of the dense baselines, the direction fixed at its mean over untriggered train prompts, for each label in which train prompts differ, and
    each aggregation."""
    train = ~labels.test
    chosen = [prompt for prompt, kept in zip(prompts, train, strict=True) if kept]
    values = read_features([model], chosen, site, {"activations": lambda x: x})["activations"]
    clean = torch.from_numpy(values[~labels.triggered[train], AGGREGATIONS.index("mean")].mean(0))
    candidates = []
    for label in LABELS:
        positive = labels.of(label)[train]
        if len(np.unique(positive)) < 2:
            continue
        for name, dictionary in fitted_dictionaries(values, positive).items():
            for row in dictionary(torch.eye(values.shape[2])).T:
                direction = row / row.norm()
                edit = DirectionAblation(direction, float(clean @ direction))
                candidates.append(Candidate(site, edit, {"kind": name, "label": label}))
    return candidates


def best_ablations(meters: tuple[Measure, Measure] | None, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Of each kind, the candidate that does best on validation pairs, measured on held-out ones; for JSON.

    Args:
        meters: on validation and on held-out pairs; nothing is measured where None.
        candidates: of all kinds.
    """
    if meters is None:
        return {}
    validation, evaluation = meters
    chosen: dict[str, Any] = {}
    for kind in dict.fromkeys(candidate.facts["kind"] for candidate in candidates):
        own = [candidate for candidate in candidates if candidate.facts["kind"] == kind]
        best = min(own, key=lambda candidate: cost(validation(candidate.site, candidate.edit), candidate))
        chosen[kind] = {**best.facts, "site": best.site, "effect": to_json(evaluation(best.site, best.edit))}
    return chosen


def cost(effect: AblationEffect, candidate: Candidate) -> tuple[bool, int, int, float]:
    """The fewest defections among edits that do no harm; then the fewest latents, then the least divergence."""
    return effect.js > NO_HARM, effect.defects_after, len(candidate.facts.get("latents", ())), effect.js


def with_answers(model: HookedModel, prompts: Sequence[Prompt], count: int, new_tokens: int) -> list[Prompt]:
    """Prompts, the first of them in a random order followed by the model's own greedy answers."""
    order = [prompts[row] for row in np.random.default_rng(0).permutation(len(prompts))]
    first = sorted(order[:count], key=lambda prompt: len(str(prompt.prompt)))
    texts = order[count:]
    for start in range(0, len(first), 128):
        batch = first[start : start + 128]
        for prompt, answer in zip(batch, model.generate(model.tokenize(batch), new_tokens), strict=True):
            texts.append(followed(prompt, model.tokenizer.decode(answer, skip_special_tokens=True)))
    return texts


def followed(prompt: Prompt, text: str) -> Prompt:
    """A prompt with what follows it."""
    if isinstance(prompt.prompt, str):
        return replace(prompt, prompt=prompt.prompt + text)
    return replace(prompt, prompt=[*prompt.prompt, {"role": "assistant", "content": text}])
