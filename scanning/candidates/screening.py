"""Gradient screening: which tokens, in one slot of a phrase, would make a target likelier, to first order; then an exact search among them.

1. A phrase stands in a few prompts with a token in a slot; the gradient of the target's log-probability with respect to that token's embedding,
   times all embeddings, orders the vocabulary (HotFlip, ACL 2018; GCG, arXiv 2307.15043).
2. The best tokens are put there and scored exactly; the best phrases go on, a token longer or with one replaced, until nothing gains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookedModel, Place, only_last
from scanning.benign import Course
from scanning.candidates.candidate import Variants

Phrase = tuple[int, ...]
Scores = Callable[[Sequence[Phrase]], Float[np.ndarray, "phrase"]]
"""Of phrases of one length, larger is better."""
Screen = Callable[[Phrase, int], list[int]]
"""Tokens for a slot of a phrase, the most promising first."""
_ROWS = 8192
"""Of the table of embeddings that are looked at together, in float32."""


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
        with model.alone():
            gradient = _gradients(hf_model, table, texts, slots, len(target)).sum(0)
        total += torch.cat([part.float() @ gradient for part in table.detach().split(_ROWS)])
    chosen = torch.tensor(list(tokens), device=total.device)
    best = total[chosen].topk(min(most, len(chosen))).indices
    return chosen[best].tolist()


def _gradients(
    hf_model: Any, table: Tensor, texts: Sequence[Sequence[int]], slots: Sequence[int], wanted: int
) -> Float[Tensor, "text width"]:
    """Of the log-probability of the last `wanted` tokens of each text, by the embedding at its slot. One text at a time, and without gradients of the weights,
    for which each layer would keep what it read.
    """
    with _frozen(hf_model), torch.enable_grad():
        return torch.stack(
            [
                _gradient(hf_model, torch.tensor(text, device=table.device), wanted)[slot]
                for text, slot in zip(texts, slots, strict=True)
            ]
        )


def _gradient(hf_model: Any, text: Int[Tensor, "token"], wanted: int) -> Float[Tensor, "token-1 width"]:
    """By all embeddings before the last token, which chooses nothing."""
    read = text[None, :-1]
    embedded = hf_model.get_input_embeddings()(read).detach().requires_grad_(True)
    logits = hf_model(inputs_embeds=embedded, use_cache=False, **only_last(hf_model, read, wanted)).logits
    seen = logits[0, -wanted:].float().log_softmax(-1)
    (gradient,) = torch.autograd.grad(seen.gather(-1, text[-wanted:, None]).sum(), embedded)
    return gradient[0].float()


@contextmanager
def _frozen(hf_model: Any) -> Iterator[None]:
    """Within, no weight asks for a gradient."""
    asking = [weights for weights in hf_model.parameters() if weights.requires_grad]
    try:
        for weights in asking:
            weights.requires_grad_(False)
        yield
    finally:
        for weights in asking:
            weights.requires_grad_(True)


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
