"""How often random tokens make a model say a given token next, where that is too rare to be sampled (Wu and Hilton, arXiv 2410.13211).

Texts x of a few tokens, each token equally likely (p); wanted is the chance that the next token of highest logit is a target t.

1. *Sampling*: the share of such texts among those drawn from p.
2. *Independent tokens* (their ITGIS): each slot's tokens are drawn in proportion to exp(s / T), where s is the change of t's logit that a token would make there,
   to first order, averaged over the texts drawn before. A text that makes the model say t counts p(x) / q(x); what it was drawn from depends on earlier texts alone,
   so the mean is unbiased.
3. *A chain* (their MHIS): Metropolis and Hastings' walk over texts whose long-run share is p(x) exp(logit / T). A step proposes another token for one slot by
   the same first-order change. Texts count exp(-logit / T), as a share of what all texts of the walk count.

Neither of the last two bounds what it has not met: an estimate of 0 says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jaxtyping import Float, Int

from experiments.shared.later import torch

if TYPE_CHECKING:
    from torch import Tensor

TEXTS_AT_ONCE, CHAINS = 256, 32
"""Texts drawn from one distribution, and walks side by side."""
_DECAY = 0.9
"""Of the running mean of first-order changes, from one batch to the next."""
_BURN_IN = 0.25
"""Share of batches and steps that are not counted, since they still depend on where they began."""


@runtime_checkable
class Texts(Protocol):
    """What an estimator asks of a model. A text is a row of numbers of tokens, 0 to `choices` - 1."""

    @property
    def choices(self) -> int:
        """Tokens that may stand in a slot."""

    @property
    def slots(self) -> int:
        """Tokens of a text."""

    def logits(self, texts: Int[Tensor, "text slot"]) -> Float[Tensor, "text vocabulary"]:
        """Of the next token."""

    def changes(
        self, texts: Int[Tensor, "text slot"], target: int
    ) -> tuple[Float[Tensor, "text vocabulary"], Float[Tensor, "text slot choice"]]:
        """Logits of the next token; and how the target's would change by each token in each slot, to first order, up to a constant of the slot."""


def sampled(texts: Texts, count: int, draws: torch.Generator) -> Int[Tensor, "vocabulary"]:
    """1: of `count` texts, how many make the model say each token."""
    batches = (
        texts.logits(_uniform(texts, min(TEXTS_AT_ONCE, count - start), draws))
        for start in range(0, count, TEXTS_AT_ONCE)
    )
    return torch.stack([seen.argmax(-1).bincount(minlength=seen.shape[-1]) for seen in batches]).sum(0)


def independent(texts: Texts, target: int, count: int, temperature: float, draws: torch.Generator) -> float:
    """2: the chance, from `count` texts; what is left of a whole batch is not drawn.

    Args:
        texts: of the model.
        target: token whose chance is wanted.
        count: texts that are read, at least one batch of `TEXTS_AT_ONCE`.
        temperature: T, in nats; the larger, the nearer to p.
        draws: source of randomness.
    """
    mean = torch.zeros(texts.slots, texts.choices)
    batches = count // TEXTS_AT_ONCE
    first, total = int(_BURN_IN * batches), 0.0
    for batch in range(batches):
        tilted = (mean / (1 - _DECAY ** max(1, batch)) / temperature).log_softmax(-1)
        drawn = torch.multinomial(tilted.exp(), TEXTS_AT_ONCE, replacement=True, generator=draws).T
        seen, changes = texts.changes(drawn, target)
        chance = tilted.gather(-1, drawn.T).sum(0) + texts.slots * math.log(texts.choices)  # of q over that of p
        if batch >= first:
            total += float((-chance).exp()[seen.argmax(-1) == target].double().sum())
        mean = _DECAY * mean + (1 - _DECAY) * changes.mean(0)
    return total / ((batches - first) * TEXTS_AT_ONCE)


def walked(texts: Texts, target: int, count: int, temperature: float, draws: torch.Generator) -> float:
    """3: the chance, from `count` texts; arguments as of `independent`, with at least two steps of `CHAINS` walks."""
    steps = count // CHAINS
    first = int(_BURN_IN * steps)
    here = _uniform(texts, CHAINS, draws)
    seen, changes = texts.changes(here, target)
    rows = torch.arange(CHAINS)
    weights, hits = [], []
    for step in range(steps - 1):
        slot = torch.randint(texts.slots, (CHAINS,), generator=draws)
        forth = (changes[rows, slot] / temperature).log_softmax(-1)
        token = torch.multinomial(forth.exp(), 1, generator=draws)[:, 0]
        there = here.clone()
        there[rows, slot] = token
        seen_there, changes_there = texts.changes(there, target)
        back = (changes_there[rows, slot] / temperature).log_softmax(-1)
        likelier = (seen_there - seen)[:, target] / temperature
        ratio = likelier + back[rows, here[rows, slot]] - forth[rows, token]
        moves = torch.rand(CHAINS, generator=draws).log() < ratio
        here = torch.where(moves[:, None], there, here)
        seen = torch.where(moves[:, None], seen_there, seen)
        changes = torch.where(moves[:, None, None], changes_there, changes)
        if step >= first:
            weights.append(-seen[:, target].double() / temperature)
            hits.append(seen.argmax(-1) == target)
    weight = torch.stack(weights).flatten().softmax(0)
    return float(weight[torch.stack(hits).flatten()].sum())


TILTED: dict[str, Callable[[Texts, int, int, float, torch.Generator], float]] = {
    "independent": independent,
    "walked": walked,
}
"""Those that have a temperature, by name."""


def _uniform(texts: Texts, count: int, draws: torch.Generator) -> Int[Tensor, "text slot"]:
    return torch.randint(texts.choices, (count, texts.slots), generator=draws)
