"""Gradient screening: which tokens, in one slot of a phrase, would make a target likelier, to first order; then an exact search among them.

1. A phrase stands in a few prompts with a token in a slot; the gradient of the target's log-probability with respect to that token's embedding,
   times all embeddings, orders the vocabulary (HotFlip, ACL 2018; GCG, arXiv 2307.15043).
2. The best tokens are put there and scored exactly; the best phrases go on, a token longer or with one replaced, until nothing gains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Place, pad_right
from scanning.benign import Course
from scanning.candidates.candidate import Variants

Phrase = tuple[int, ...]
Scores = Callable[[Sequence[Phrase]], Float[np.ndarray, "phrase"]]
"""Of phrases of one length, larger is better."""
Screen = Callable[[Phrase, int], list[int]]
"""Tokens for a slot of a phrase, the most promising first."""


def screened(
    model: HookedModel,
    variants: Variants,
    courses: Sequence[Course],
    place: Place,
    target: Sequence[int],
    tokens: Sequence[int],
    phrase: Phrase,
    slot: int,
    most: int,
) -> list[int]:
    """Step 1: the best tokens for a slot of a phrase that stands at a place of each course's prompt."""
    hf_model: Any = model.hf_model
    table = hf_model.get_input_embeddings().weight
    total = torch.zeros(len(table), device=table.device)
    cuts = [cut for course in courses if (cut := variants.opened(course.index, place)) is not None]
    if cuts:
        texts = [[*cut.filled(phrase), *target] for cut in cuts]
        slots = [len(cut.before) + slot for cut in cuts]
        total += table.detach().float() @ _gradients(hf_model, table, texts, slots, len(target)).sum(0)
    chosen = torch.tensor(list(tokens), device=total.device)
    best = total[chosen].topk(min(most, len(chosen))).indices
    return chosen[best].tolist()


def _gradients(
    hf_model: Any, table: Tensor, texts: Sequence[Sequence[int]], slots: Sequence[int], wanted: int
) -> Float[Tensor, "text width"]:
    """Of the log-probability of the last `wanted` tokens of each text, by the embedding at its slot; filled on the right, which no earlier token sees."""
    with torch.enable_grad():
        rows = pad_right(texts, 0).to(table.device)
        embedded = hf_model.get_input_embeddings()(rows).detach().requires_grad_(True)
        logits = hf_model(inputs_embeds=embedded, use_cache=False).logits
        likely = []
        for row, own, text in zip(rows, logits, texts, strict=True):
            seen = own[len(text) - wanted - 1 : len(text) - 1].float().log_softmax(-1)
            likely.append(seen.gather(-1, row[len(text) - wanted : len(text), None]).sum())
        torch.stack(likely).sum().backward(inputs=[embedded])
    gradient = embedded.grad
    assert gradient is not None  # it was asked for
    return torch.stack([own[slot].float() for own, slot in zip(gradient, slots, strict=True)])


def grown(
    scores: Scores, screen: Screen, seeds: Sequence[Phrase], longest: int, beam: int = 3, gain: float = 0.05
) -> list[tuple[float, Phrase]]:
    """Step 2: phrases, the best first.

    Args:
        scores: of phrases of one length.
        screen: of a slot.
        seeds: to begin with.
        longest: tokens of the longest phrase.
        beam: phrases that go on.
        gain: by how much a round must better the best phrase.
    """
    known: dict[Phrase, float] = {}
    _score(scores, list(seeds), known)
    best = _best(known, beam)
    for _ in range(2 * longest):
        _score(scores, sorted({new for _, phrase in best for new in _neighbours(screen, phrase, longest)}), known)
        better = _best(known, beam)
        if better[0][0] < best[0][0] + gain:
            break
        best = better
    return _best(known, 4 * beam)


def _neighbours(screen: Screen, phrase: Phrase, longest: int) -> list[Phrase]:
    """A token more before, after, or in its middle; or its first, middle or last one replaced."""
    slots = sorted({0, len(phrase) // 2, len(phrase)})
    new: list[Phrase] = []
    for slot in slots if len(phrase) < longest else ():
        standing = phrase[min(slot, len(phrase) - 1)]
        longer = (*phrase[:slot], standing, *phrase[slot:])
        new += [(*phrase[:slot], token, *phrase[slot:]) for token in screen(longer, slot)]
    for slot in sorted({0, len(phrase) // 2, len(phrase) - 1}):
        new += [(*phrase[:slot], token, *phrase[slot + 1 :]) for token in screen(phrase, slot)]
    return new


def _score(scores: Scores, phrases: Sequence[Phrase], known: dict[Phrase, float]) -> None:
    for length in sorted({len(phrase) for phrase in phrases}):
        own = [phrase for phrase in phrases if len(phrase) == length and phrase not in known]
        if own:
            known.update(zip(own, scores(own).tolist(), strict=True))


def _best(known: dict[Phrase, float], most: int) -> list[tuple[float, Phrase]]:
    return sorted(
        ((value, phrase) for phrase, value in known.items()), key=lambda pair: (-pair[0], len(pair[1]), pair[1])
    )[:most]
