"""What a method of removal is. Adding one takes a file in this folder that ends in `METHODS`, and its name in `registry.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from patching.removal.edits import AnyEdit, WeightEdit
from patching.removal.fit import Fit
from patching.removal.methods.placebos import random_update, same_move


@dataclass(frozen=True)
class Method:
    """A way to make an edit from the fitting side."""

    name: str
    """As commands, tables and the scoreboard call it."""
    make: Callable[[Fit], AnyEdit]
    """
    Raises:
        UserError: this model does not admit it; the method is then left out, and a note says why.
    """
    placebo: Callable[[Fit, AnyEdit], AnyEdit] | None = None
    """Makes the placebo of an edit; None for none.

    Raises:
        UserError: it cannot be made; the placebo is then left out, and a note says why.
    """
    needs_minimal_pairs: bool = False
    """Whether it takes the tokens in which a pair differs for the trigger; it is left out where they are more than that."""
    ready: bool = False
    """Whether its edit was given and not fitted: NaN from it is then an error of whoever gave it, and not left out."""


def usual_placebo(fit: Fit, edit: AnyEdit) -> AnyEdit:
    """An edit of the same strength in a random direction."""
    if isinstance(edit, WeightEdit):
        return random_update(fit.editable.original, edit, int(edit.facts.get("rank", 1)), fit.seed)
    return same_move(edit, fit.seed)


def given(edit: AnyEdit) -> Method:
    """A ready edit, such as a sparse autoencoder's, as a method: the same with every seed, its placebo not."""
    return Method(edit.name, lambda _: edit, usual_placebo, ready=True)
