"""Attribution patching: a first-order estimate of every cell's effect from two forward passes and one backward.

1. Zeros are added at every site of the patched run, and the metric's gradient with respect to them is taken: one forward
   and one backward, for all sites at once. The other forward reads the source run.
2. A patch's estimate is the gradient times the difference of the activations, summed over its positions and sites.
3. The estimate is linear, and wrong where the network is not (saturated attention, norms): so it is always audited. On a
   random sample of the cells the exact effect is computed too, and the rank correlation and the worst miss are reported.

Nanda 2023, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching; Syed, Rager and Conmy 2023,
https://arxiv.org/abs/2310.10348.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, UserError
from patching.cells import Cell
from patching.exact import Audit, ExactResult, exact_effects
from patching.metric import chosen
from patching.pairs import Direction, PatchPair, Sides
from patching.reference import read_sites

TRUSTED_CORRELATION = 0.9
"""Below this rank correlation with exact patching the result carries a warning."""


def attribution_effects(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    cells: Sequence[Sequence[Cell]],
    direction: Direction = "denoising",
    *,
    audited: int = 64,
    row_budget: int | None = None,
    seed: int = 0,
) -> ExactResult:
    """Estimate the effect of each cell on each pair; arguments as `exact_effects`.

    Raises:
        UserError: as `exact_effects`; or fewer than two cells are to be audited.
    """
    if audited < 2:
        raise UserError("attribution patching is an estimate and is always audited: audit at least 2 cells")
    start = time.perf_counter()
    effects = tuple(_estimates(model, pair.sides(direction), own) for pair, own in zip(pairs, cells, strict=True))
    seconds = time.perf_counter() - start
    audit = _audit(model, pairs, cells, effects, direction, audited, row_budget, seed)
    notes: tuple[str, ...] = ()
    if audit.rank_correlation is not None and audit.rank_correlation < TRUSTED_CORRELATION:
        notes = (
            f"warning: on {audit.cells} cells the estimate's rank correlation with exact patching is "
            f"{audit.rank_correlation:.2f}, below {TRUSTED_CORRELATION}; use exact patching",
        )
    return ExactResult(effects, sum(map(len, cells)), 0, seconds, "gradient", audit, notes)


def _estimates(model: HookedModel, sides: Sides, cells: Sequence[Cell]) -> Float[np.ndarray, "cell"]:
    """Step 2 for all cells of a pair."""
    sites = list(dict.fromkeys(patch.site for cell in cells for patch in cell))
    source, patched = read_sites(model, sides.source, sites), read_sites(model, sides.patched, sites)
    gradients = metric_gradients(model, sides, sites)
    counterparts = sides.alignment.counterparts
    matched = [at for at, other in enumerate(counterparts) if other is not None]
    origins = [other for other in counterparts if other is not None]
    by_site = {}
    for site in sites:
        estimate = torch.full((len(counterparts),), torch.nan, dtype=torch.float64)
        difference = source[site][origins].double() - patched[site][matched].double()
        estimate[matched] = (difference * gradients[site][matched].double()).sum(-1).cpu()
        by_site[site] = (estimate / (sides.source_value - sides.patched_value)).numpy()
    return np.array([_summed([by_site[p.site][list(p.positions)] for p in cell]) for cell in cells])


def _summed(parts: Sequence[Float[np.ndarray, "_"]]) -> float:
    """The sum of what is patched; NaN where nothing is."""
    joined = np.concatenate(parts)
    return float(np.nansum(joined)) if np.isfinite(joined).any() else float("nan")


def metric_gradients(
    model: HookedModel, sides: Sides, sites: Sequence[str]
) -> dict[str, Float[Tensor, "position d_model"]]:
    """Step 1: the gradient of the metric with respect to each site of the patched run."""
    shape = (1, len(sides.patched), model.info.d_model)
    zeros = {site: torch.zeros(shape, dtype=model.dtype, device=model.device, requires_grad=True) for site in sites}
    edits = {site: _adding(zero) for site, zero in zeros.items()}
    metric = sides.pair.metric
    with torch.enable_grad():
        logits = model.run(torch.tensor([sides.patched]), edits=edits).logits
        assert logits is not None  # no last layer was given
        value = metric(chosen(logits[:, -metric.tail :].float(), metric.tokens)).sum()
        gradients = torch.autograd.grad(value, list(zeros.values()), allow_unused=True)
    return {
        site: zero.detach()[0] if gradient is None else gradient[0]
        for (site, zero), gradient in zip(zeros.items(), gradients, strict=True)
    }


def _adding(zero: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda value: value + zero.to(value.device)


def _audit(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    cells: Sequence[Sequence[Cell]],
    effects: Sequence[Float[np.ndarray, "_"]],
    direction: Direction,
    count: int,
    row_budget: int | None,
    seed: int,
) -> Audit:
    """Step 3."""
    generator = np.random.default_rng(seed)
    each = max(2, -(-count // len(pairs)))
    samples = [generator.permutation(np.flatnonzero(np.isfinite(row)))[:each] for row in effects]
    chosen_cells = [[own[at] for at in sample.tolist()] for own, sample in zip(cells, samples, strict=True)]
    exact = exact_effects(model, pairs, chosen_cells, direction, row_budget=row_budget, audited=0)
    truth = np.concatenate(exact.effects)
    guess = np.concatenate([row[sample] for row, sample in zip(effects, samples, strict=True)])
    return Audit(len(truth), float(np.abs(truth - guess).max()), rank_correlation(truth, guess))


def rank_correlation(one: Float[np.ndarray, "cell"], other: Float[np.ndarray, "cell"]) -> float | None:
    """Spearman's; None where either is constant."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)
