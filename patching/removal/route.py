"""What the patching map names: the heads through which the trigger acts, their layers, and where its own tokens matter.

Effects are those of denoising patches (`patching.trace.run`), averaged over a few pairs of the fitting side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hooked import HookedModel
from patching.alignment import common_ends
from patching.pairs import PatchPair, make_pair
from patching.removal.pairs import Answers, MarkedPair
from patching.removal.result import RouteFacts
from patching.trace.run import patch_trace
from triggerlens import UserError

CARRIED = 0.8
"""The named heads are the fewest that carry this share of all heads' positive effect, of each patched alone."""
_MOST_HEADS = 8


@dataclass(frozen=True)
class Route:
    """The trigger's way through the network."""

    heads: tuple[tuple[int, int], ...]
    """(layer, head), strongest first."""
    head_effects: Float[np.ndarray, "layer head"]
    """Effect of denoising each head alone: 0 as without a patch, 1 as in the clean run."""
    trigger_layer: int
    """The layer at whose input patching the trigger's own tokens has the largest effect."""
    pairs: int
    """How many pairs it was found on."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the named heads, in order."""
        return tuple(sorted({layer for layer, _ in self.heads}))

    @classmethod
    def of(cls, facts: RouteFacts) -> Route:
        """The route of which these are the facts."""
        return cls(facts.heads, np.array(facts.head_effects), facts.trigger_layer, facts.pairs)

    def facts(self) -> RouteFacts:
        """What is reported of it."""
        effects = tuple(tuple(row) for row in self.head_effects.tolist())
        return RouteFacts(self.heads, self.layers, self.trigger_layer, self.pairs, effects)


def find_route(model: HookedModel, chosen: Sequence[MarkedPair], answers: Answers, count: int) -> Route:
    """Trace the first `count` pairs whose answers part.

    Raises:
        UserError: none can.
    """
    pairs: list[PatchPair] = []
    reason = "there is no pair"
    for pair in chosen:
        if len(pairs) == count:
            break
        shared = common_ends(answers[pair.clean.ids], answers[pair.triggered.ids])[0]
        try:
            pairs.append(make_pair(model, pair.clean.prompt, pair.triggered.prompt, new_tokens=shared + 1))
        except UserError as error:
            reason = str(error)
    if not pairs:
        raise UserError(f"no pair can be traced: {reason}")
    trace = patch_trace(model, pairs)
    assert trace.heads is not None
    on_trigger = np.nan_to_num(trace.by_role[:, 1])
    return Route(carrying_heads(trace.heads), trace.heads, int(on_trigger.argmax()), len(pairs))


def carrying_heads(effects: Float[np.ndarray, "layer head"]) -> tuple[tuple[int, int], ...]:
    """The fewest heads whose effects make up `CARRIED` of all positive ones, at least one and at most eight."""
    positive = np.clip(effects, 0, None)
    order = np.argsort(-effects, axis=None, kind="stable")[:_MOST_HEADS]
    carried = np.cumsum(positive.ravel()[order])
    count = int(np.searchsorted(carried, CARRIED * positive.sum())) + 1
    places = [np.unravel_index(place, effects.shape) for place in order[:count]]
    return tuple((int(layer), int(head)) for layer, head in places)
