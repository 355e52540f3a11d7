"""Mean-ablation of heads: what a head writes is replaced by its mean over the fitting side's tokens, clean and triggered.

The heads are those that the patching map names (`patching.removal.route`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from jaxtyping import Float
from torch import Tensor

from patching.removal.edits import ActivationEdit
from patching.removal.fit import Fit
from patching.removal.methods.method import Method
from patching.removal.pairs import both


def top_heads(fit: Fit) -> ActivationEdit:
    """The named heads, at every token."""
    return mean_ablated(fit, "top heads, mean-ablated", fit.route.heads)


def random_heads(fit: Fit) -> ActivationEdit:
    """As many heads, drawn from the others."""
    info, anatomy = fit.model.info, fit.model.anatomy
    layers = [layer for layer in range(info.n_layers) if anatomy.has_attention(layer)]
    every = [(layer, head) for layer in layers for head in range(info.n_heads)]
    others = [head for head in every if head not in fit.route.heads] or every
    chosen = Random(fit.seed).sample(others, min(len(others), len(fit.route.heads)))
    return mean_ablated(fit, "random heads, mean-ablated", chosen)


def mean_ablated(fit: Fit, name: str, heads: Sequence[tuple[int, int]]) -> ActivationEdit:
    """Replace what heads write by its mean."""
    sites = [f"head_out.{layer}.{head}" for layer, head in heads]
    return ActivationEdit(name, {site: constant(mean) for site, mean in fit.mean_of(both(fit.pairs), sites).items()})


def constant(mean: Float[Tensor, "width"]) -> Callable[[Tensor], Tensor]:
    """Every token's value becomes the same."""
    return lambda value: mean.to(value).expand_as(value)


METHODS = (Method("heads-mean", top_heads, lambda fit, _: random_heads(fit)),)
