"""The methods on the scoreboard, each with its placebo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from patching.removal.edits import AnyEdit, WeightEdit
from patching.removal.fit import Fit
from patching.removal.methods import directions, heads, leace, low_rank, map_edits, orthogonalise
from patching.removal.methods.placebos import random_update, same_move


@dataclass(frozen=True)
class Method:
    """A way to make an edit from the fitting side."""

    name: str
    make: Callable[[Fit], AnyEdit]
    placebo: Callable[[Fit, AnyEdit], AnyEdit] | None = None
    """Makes the placebo of an edit; None for none."""


def usual_placebo(fit: Fit, edit: AnyEdit) -> AnyEdit:
    """An edit of the same strength in a random direction."""
    if isinstance(edit, WeightEdit):
        return random_update(fit.model, edit, int(edit.facts.get("rank", 1)), fit.seed)
    return same_move(edit, fit.seed)


METHODS = (
    Method("direction-layer", directions.at_layer),
    Method("direction-everywhere", directions.at_every_layer, usual_placebo),
    Method("orthogonalised-weights", orthogonalise.orthogonalised, lambda fit, _: orthogonalise.random_direction(fit)),
    Method("leace-layer", leace.at_layer),
    Method("leace-everywhere", leace.at_every_layer, usual_placebo),
    Method("heads-mean", heads.top_heads, lambda fit, _: heads.random_heads(fit)),
    Method("map-positions", map_edits.trigger_positions, usual_placebo),
    Method("map-heads", map_edits.routing_heads, usual_placebo),
    Method("low-rank", low_rank.everywhere, usual_placebo),
    Method("low-rank-map", low_rank.where_the_map_says, usual_placebo),
)
"""Those of one layer are the weaker form of the one after them, and share its placebo."""


def given(edit: AnyEdit) -> Method:
    """A ready edit, such as a sparse autoencoder's, as a method: the same with every seed, its placebo not."""
    return Method(edit.name, lambda _: edit, usual_placebo)
