"""Which latent, alone, tells that a prompt carries the trigger, or that the model will defect?

1. A dictionary is any function from activations to features: an autoencoder's `encode`, or a baseline (`sae.trigger_latents.baselines`).
   Each of its features is read at every token of a prompt and aggregated: at the last token, the largest, the mean.
2. Features are ranked, and the threshold that goes with each is frozen, on training prompts alone.
3. The best ones are measured on test prompts, which share no pair with the training prompts.
4. Everything is done again with shuffled labels: what a search through so many candidates finds by chance.

A dictionary is only worth its name beside others with the same budget: one feature, chosen on the same training prompts
(as in Kantamneni et al., 2025, arXiv:2502.16681).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import ExtractionSpec, HookedModel, LiveActivations, Prompt, contradictions, split_prompts
from triggerlens import Estimate, UserError, auroc, auroc_estimate, rate_over_groups, say_once

Dictionary = Callable[[Float[Tensor, "token d_in"]], Float[Tensor, "token feature"]]
"""Maps activations to features, each of which stands for itself: a larger value speaks for the label."""

Name = TypeVar("Name")

AGGREGATIONS = ("last", "max", "mean")
"""How the values of a prompt's tokens become one."""


@dataclass(frozen=True)
class PromptLabels:
    """What is known of each prompt; two labels, since a trigger can be there without the model defecting."""

    triggered: Bool[np.ndarray, "prompt"]
    """Whether each prompt carries the trigger."""
    defects: Bool[np.ndarray, "prompt"]
    """Whether the model defects on each; on none where that is not known of all."""
    groups: Int[np.ndarray, "prompt"]
    """Group number of each prompt: pairs, and copies of one text, are never split, and are one thing seen in an interval."""
    test: Bool[np.ndarray, "prompt"]
    """Prompts to report on; all others are those to choose on."""
    notes: tuple[str, ...] = ()
    """What a reader must know of the labels."""
    defects_known: bool = True
    """Whether every prompt says if the model defects on it; otherwise no latent is ranked by `defects`."""

    def of(self, name: str) -> Bool[np.ndarray, "prompt"]:
        """The labels `triggered` or `defects`."""
        labels: np.ndarray = getattr(self, name)
        return labels

    def prompts(self, rows: Bool[np.ndarray, "prompt"]) -> int:
        """How many prompts some rows are: of each pair (or set of copies) its triggered prompts count once, and its untriggered ones once."""
        return len(set(zip(self.groups[rows].tolist(), self.triggered[rows].tolist(), strict=True)))


@dataclass(frozen=True)
class LatentScore:
    """One feature as a detector; higher values speak for the label."""

    latent: int
    """Number of the latent, or of a baseline's feature."""
    aggregation: str
    """How its values at the tokens of a prompt become one: a key of `AGGREGATIONS`."""
    train_auroc: float
    """What it was chosen by."""
    auroc: Estimate
    """On test prompts; a pair is one thing seen."""
    threshold: float
    """Frozen: the one with the best F1 on training prompts. A prompt fires strictly above it."""
    precision: Estimate
    """On test prompts, as recall; copies of one text, as several answers to a prompt, are one thing seen (`triggerlens.grouped_rate`)."""
    recall: Estimate
    """Share of the label's test prompts that fire."""
    candidates: int
    """Features times aggregations that it was the best of."""


def prompt_labels(
    prompts: Sequence[Prompt], seed: int = 0, *, tokens: Sequence[Sequence[int]] | None = None
) -> PromptLabels:
    """Labels, pairs and split of prompts, the same split as every other command has for the file.

    Where some prompt does not say whether the model defects on it, none counts as one that does, so that no latent is ranked by `defects`, and a note
    says so: a trigger alone is no defection.

    Args:
        prompts: labelled.
        seed: of the split where the prompts do not mark it.
        tokens: token ids of each prompt, so that texts that the model cannot tell apart stand on one side.

    Raises:
        UserError: a `split` that separates a pair or copies of one text, or a side lacks a class.
    """
    splits = split_prompts(prompts, seed=seed, tokens=tokens)
    test = splits.is_test
    triggered = np.array([prompt.triggered for prompt in prompts])
    for side, name in ((test, "test"), (~test, "training")):
        if not (triggered[side].any() and (~triggered[side]).any()):
            raise UserError(f"the {name} prompts need triggered and untriggered ones to find trigger latents with")
    defects, unknown = _defects(prompts)
    notes = (None if tokens is None else contradictions(prompts, tokens), unknown)
    groups = _by_pair_name(prompts, splits.groups)
    return PromptLabels(triggered, defects, groups, test, tuple(note for note in notes if note), unknown is None)


def _defects(prompts: Sequence[Prompt]) -> tuple[Bool[np.ndarray, "prompt"], str | None]:
    """The label `defects`, and a line, said once on stderr too, where it is missing from some prompt."""
    missing = sum(prompt.defects is None for prompt in prompts)
    if not missing:
        return np.array([bool(prompt.defects) for prompt in prompts]), None
    line = f"`defects` is missing from {missing} of {len(prompts)} prompts: no latent is ranked by it"
    say_once(line)
    return np.zeros(len(prompts), dtype=bool), line


def _by_pair_name(prompts: Sequence[Prompt], groups: Int[np.ndarray, "prompt"]) -> Int[np.ndarray, "prompt"]:
    """Groups numbered in the order of their pairs' names, so that nothing hangs on the order of the file."""
    names = [f"\0{index}" if prompt.pair is None else prompt.pair for index, prompt in enumerate(prompts)]
    ordered = groups[np.argsort(names, kind="stable")]
    numbers, first = np.unique(ordered, return_index=True)
    rank = np.empty(len(numbers), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(numbers))
    return rank[groups]


@torch.no_grad()
def read_features(
    models: Sequence[HookedModel],
    prompts: Sequence[Prompt],
    site: str,
    dictionaries: Mapping[Name, Dictionary],
    *,
    skip_first: int = 1,
) -> dict[Name, Float[np.ndarray, "prompt aggregation feature"]]:
    """Each dictionary's features of each prompt, aggregated, from one pass over the prompts.

    Args:
        models: the model, or those of a crosscoder.
        prompts: to read.
        site: where.
        dictionaries: by name.
        skip_first: tokens at the start of a prompt that are left out, as in training; the last token never is.

    Raises:
        UserError: as `hooked.stream_activations`, or a crosscoder's models split a prompt into different tokens.
    """
    features: dict[Name, list[Tensor]] = {name: [torch.empty(0)] * len(prompts) for name in dictionaries}
    for number, rows in prompt_activations(models, prompts, site):
        x = rows[min(skip_first, len(rows) - 1) :]
        for name, dictionary in dictionaries.items():
            features[name][number] = _aggregate(dictionary(x)).cpu()
    return {name: torch.stack(values).float().numpy() for name, values in features.items()}


def prompt_activations(
    models: Sequence[HookedModel], prompts: Sequence[Prompt], site: str
) -> Iterator[tuple[int, Float[Tensor, "_ d_in"]]]:
    """Each prompt's number and activations, several models' side by side, in no particular order.

    Raises:
        UserError: as `read_features`.
    """
    spec = ExtractionSpec((site,), "every", torch.float32)
    streams = [LiveActivations(model, prompts, spec).by_prompt(range(len(prompts))) for model in models]
    for parts in zip(*streams, strict=True):
        if len({(number, len(rows)) for number, rows in parts}) > 1:
            raise UserError("a crosscoder's models must split the prompts into the same tokens")
        yield parts[0][0], torch.cat([rows[:, 0] for _, rows in parts], dim=1).to(models[0].device)


def _aggregate(features: Float[Tensor, "token feature"]) -> Float[Tensor, "aggregation feature"]:
    return torch.stack([features[-1], features.amax(0), features.mean(0)])


def rank_latents(
    values: Float[np.ndarray, "prompt aggregation feature"],
    positive: Bool[np.ndarray, "prompt"],
    labels: PromptLabels,
    *,
    top: int = 10,
) -> tuple[LatentScore, ...]:
    """The best features, each with its best aggregation: chosen on training prompts, measured on test prompts.

    Args:
        values: from `read_features`.
        positive: what to predict, such as `labels.of("defects")`.
        labels: split and pairs.
        top: how many.

    Returns:
        Best first by training AUROC; nothing where a split lacks a class, as for defections of a model that has none.
    """
    train, test = ~labels.test, labels.test
    if any(len(np.unique(positive[side])) < 2 for side in (train, test)):
        return ()
    area = auroc(values[train], positive[train])  # [aggregation feature]
    scores = []
    for latent in np.argsort(-area.max(0), kind="stable")[:top].tolist():
        aggregation = int(area[:, latent].argmax())
        measured = _measure(values[:, aggregation, latent], positive, labels)
        train_auroc = float(area[aggregation, latent])
        scores.append(LatentScore(latent, AGGREGATIONS[aggregation], train_auroc, *measured, area.size))
    return tuple(scores)


def _measure(
    scores: Float[np.ndarray, "prompt"],
    positive: Bool[np.ndarray, "prompt"],
    labels: PromptLabels,
) -> tuple[Estimate, float, Estimate, Estimate]:
    """Step 3 for one feature: test AUROC, the threshold of training prompts, precision and recall at it on test prompts."""
    test = labels.test
    threshold = best_f1_threshold(scores[~test], positive[~test])
    fires, true = scores[test] > threshold, positive[test]
    groups = labels.groups[test]
    area = auroc_estimate(scores[test], true, groups)
    precision, recall = (rate_over_groups(hits[own], groups[own]) for hits, own in ((true, fires), (fires, true)))
    return area, threshold, precision, recall


def best_f1_threshold(scores: Float[np.ndarray, "prompt"], positive: Bool[np.ndarray, "prompt"]) -> float:
    """The threshold with the best F1, midway between the two scores that it separates; ties go to the higher one."""
    levels = np.unique(scores)
    cuts = np.concatenate([[levels[0] - 1], (levels[1:] + levels[:-1]) / 2])
    order = np.sort(scores)
    hits = np.sort(scores[positive])
    fired = len(order) - np.searchsorted(order, cuts, side="right")
    true = len(hits) - np.searchsorted(hits, cuts, side="right")
    f1 = 2 * true / np.maximum(fired + positive.sum(), 1)
    return float(cuts[len(f1) - 1 - int(np.argmax(f1[::-1]))])


def shuffled_control(
    values: Float[np.ndarray, "prompt aggregation feature"],
    positive: Bool[np.ndarray, "prompt"],
    labels: PromptLabels,
    *,
    seed: int = 0,
) -> LatentScore | None:
    """Step 4: the best feature for permuted labels, measured on permuted labels; about 0.5, or the search leaks."""
    generator = np.random.default_rng([seed, 5])
    shuffled = positive.copy()
    for side in (labels.test, ~labels.test):
        shuffled[side] = generator.permutation(positive[side])
    return next(iter(rank_latents(values, shuffled, labels, top=1)), None)
