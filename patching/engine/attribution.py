"""Attribution patching: a first-order estimate of every cell's effect from two forward passes and one backward.

1. Zeros are added at every site of the patched run, and the metric's gradient with respect to them is taken: one forward
   and one backward, for all sites at once. The other forward reads the source run.
2. A patch's estimate is the gradient times the difference of the activations, summed over its positions and sites.
3. The estimate is linear, and wrong where the network is not. Two corrections, on request:
   `softmax` (queries and keys): a saturated softmax has no gradient, so the pattern that the patched query or key gives is
   computed exactly, one forward for each layer, and only what follows the pattern is linear (the "QK fix" of AtP*, Kramár,
   Lieberum, Shah and Nanda 2024, https://arxiv.org/abs/2403.00745).
   `integrated` (any site): the gradient is averaged along the straight path from the patched run's activations to the source
   run's, one kind of site in one layer at a time (integrated gradients, Sundararajan, Taly and Yan 2017,
   https://arxiv.org/abs/1703.01365; on a layer's activations as in Marks et al. 2024, https://arxiv.org/abs/2403.19647).
4. Whatever the estimate, it is audited: on a random sample of the cells that a patch can change, the exact effect is computed
   too, and the rank correlation and the worst miss are reported.

Nanda 2023, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching; Syed, Rager and Conmy 2023,
https://arxiv.org/abs/2310.10348.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, parse_site
from patching.engine.cells import Cell
from patching.engine.exact import Audit, ExactResult, exact_effects
from patching.engine.reference import read_sites, replacements
from patching.metric import chosen
from patching.options import Direction, EstimateKind
from patching.pairs import PatchPair, Sides
from triggerlens import UserError

TRUSTED_CORRELATION = 0.9
"""Below this rank correlation with exact patching the result carries a warning."""
_STEPS = 8
"""Points on the path of integrated gradients."""
_TOKENS_AT_ONCE = 4096
_AUDITED_AGAIN = 4
"""Of the cells that an estimate is audited by: computed one at a time too, where they are run together."""


def attribution_effects(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    cells: Sequence[Sequence[Cell]],
    direction: Direction = "denoising",
    *,
    estimate: EstimateKind = "plain",
    fast: bool = True,
    audited: int = 64,
    row_budget: int | None = None,
    seed: int = 0,
) -> ExactResult:
    """Estimate the effect of each cell on each pair.

    Args:
        model: the model.
        pairs: the pairs; their metrics may differ.
        cells: for each pair, the cells to patch.
        direction: which run is patched.
        estimate: how; see step 3.
        fast: run the exact cells of the audit together on packed rows, where the model fits and a few of them agree with one at a time.
        audited: how many cells are computed exactly too, spread over the pairs; at least two a pair are.
        row_budget: of the audit's exact cells, rows in one chunk; a default for the device where None.
        seed: of the choice of audited cells.

    Returns:
        Effects as of `exact_effects`, estimated; `audit` says how far they are off.

    Raises:
        UserError: as `exact_effects`; fewer than two cells are to be audited; or `softmax` for other sites than `q` and `k`.
    """
    if audited < 2:
        raise UserError("attribution patching is an estimate and is always audited: audit at least 2 cells")
    start = time.perf_counter()
    effects = tuple(
        _estimates(model, pair.sides(direction), own, estimate) for pair, own in zip(pairs, cells, strict=True)
    )
    seconds = time.perf_counter() - start
    exactly = partial(exact_effects, direction=direction, fast=fast, audited=_AUDITED_AGAIN, row_budget=row_budget)
    audit, notes = _audit(model, pairs, cells, effects, direction, exactly, audited, seed)
    if audit.rank_correlation is not None and audit.rank_correlation < TRUSTED_CORRELATION:
        notes += (
            f"warning: on {audit.cells} cells the estimate's rank correlation with exact patching is "
            f"{audit.rank_correlation:.2f}, below {TRUSTED_CORRELATION}; use exact patching",
        )
    estimated = [value for own in effects for value in own if np.isfinite(value)]
    if audit.rank_correlation is None and len(set(estimated)) < 2 <= audit.cells:
        notes += (
            "warning: all estimates are the same, so that they order nothing: the metric has no gradient at the run that is patched (as kl has none at the clean run); "
            "use exact patching, another metric, or the other direction",
        )
    return ExactResult(effects, sum(map(len, cells)), 0, seconds, f"{estimate} gradient", audit, notes)


def _estimates(
    model: HookedModel, sides: Sides, cells: Sequence[Cell], estimate: EstimateKind
) -> Float[np.ndarray, "cell"]:
    """Steps 2 and 3 for all cells of a pair."""
    if any(patch.keys is not None for cell in cells for patch in cell):
        raise UserError("a part of an attention pattern is patched exactly or not at all: it has no estimate here")
    sites = list(dict.fromkeys(patch.site for cell in cells for patch in cell))
    source, patched = read_sites(model, sides.source, sites), read_sites(model, sides.patched, sites)
    matched = sides.alignment.mask
    moves = {}
    for site in sites:
        move = replacements(sides, site, source[site]) - patched[site]
        moves[site] = move * matched.to(move.device)[:, None]
    if estimate == "softmax":
        by_site = _softmax_corrected(model, sides, moves)
    else:
        find = metric_gradients if estimate == "plain" else _path_gradients
        gradients = find(model, sides, moves)
        by_site = {site: (move.double() * gradients[site].double()).sum(-1) for site, move in moves.items()}
    scale = sides.source_value - sides.patched_value
    scaled = {site: (values.cpu() / scale).masked_fill(~matched, torch.nan).numpy() for site, values in by_site.items()}
    return np.array([_summed([scaled[p.site][list(p.positions)] for p in cell]) for cell in cells])


def _summed(parts: Sequence[Float[np.ndarray, "_"]]) -> float:
    """The sum of what is patched; NaN where nothing is."""
    joined = np.concatenate(parts)
    return float(np.nansum(joined)) if np.isfinite(joined).any() else float("nan")


def metric_gradients(
    model: HookedModel, sides: Sides, sites: Sequence[str] | Mapping[str, Tensor], along: Sequence[float] = (0.0,)
) -> dict[str, Float[Tensor, "position _"]]:
    """The gradient of the metric with respect to each site of the patched run, in one forward and one backward pass for all sites.

    Args:
        model: the model.
        sides: the pair in one direction.
        sites: the sites; with `along`, each with its move [position width].
        along: shares of the moves that are made, all sites together; the mean of the gradients there.

    Returns:
        By site a gradient as large as its activation [position width], in the metric's unit for one of the activation's; 0 where the metric does
        not depend on it.

    Raises:
        UserError: a site that the model lacks.
    """
    length = len(sides.patched)
    moves = sites if isinstance(sites, Mapping) else {}
    shares = torch.tensor(along, device=model.device, dtype=model.dtype)[:, None, None]
    zeros = {}
    for site in sites:
        shape = (1, length, model.width(parse_site(site).kind, length))
        zeros[site] = torch.zeros(shape, dtype=model.dtype, device=model.device, requires_grad=True)
    edits = {site: _adding(zero, shares * moves[site] if site in moves else None) for site, zero in zeros.items()}
    metric = sides.pair.metric
    with torch.enable_grad():
        logits = model.run(torch.tensor([sides.patched] * len(along)), edits=edits).logits
        assert logits is not None  # no last layer was given
        value = metric(chosen(logits[:, -metric.tail :].float(), metric.tokens)).mean()
        gradients = torch.autograd.grad(value, list(zeros.values()), allow_unused=True)
    return {
        site: zero.detach()[0] if gradient is None else gradient[0]
        for (site, zero), gradient in zip(zeros.items(), gradients, strict=True)
    }


def _adding(zero: Tensor, move: Tensor | None) -> Callable[[Tensor], Tensor]:
    added = zero if move is None else zero + move
    return lambda value: value + added.to(value.device)


def _by_layer(sites: Mapping[str, Tensor]) -> list[list[str]]:
    """Sites of the same kind and layer together."""

    def place(site: str) -> tuple[str, int]:
        return parse_site(site).kind, parse_site(site).layer

    return [list(group) for _, group in groupby(sorted(sites, key=place), key=place)]


def _path_gradients(
    model: HookedModel, sides: Sides, moves: Mapping[str, Float[Tensor, "position _"]]
) -> dict[str, Float[Tensor, "position _"]]:
    """Step 3, integrated: the mean gradient at the middles of equal steps of the path."""
    along = [(step + 0.5) / _STEPS for step in range(_STEPS)]
    gradients: dict[str, Tensor] = {}
    for sites in _by_layer(moves):
        gradients |= metric_gradients(model, sides, {site: moves[site] for site in sites}, along)
    return gradients


def _softmax_corrected(
    model: HookedModel, sides: Sides, moves: Mapping[str, Float[Tensor, "position d_head"]]
) -> dict[str, Float[Tensor, "position"]]:
    """Step 3, softmax: the change of the pattern, computed, times the metric's gradient with respect to the pattern."""
    parsed = [parse_site(site) for site in moves]
    other = next((str(site) for site in parsed if site.kind not in ("q", "k")), None)
    if other is not None:
        raise UserError(
            f"the softmax correction is of queries and keys, not of {other}; choose q or k, or the integrated estimate"
        )
    layers = sorted({site.layer for site in parsed})
    patterns = [f"pattern.{layer}.{head}" for layer in layers for head in range(model.info.n_heads)]
    usual, slopes = read_sites(model, sides.patched, patterns), metric_gradients(model, sides, patterns)
    estimates: dict[str, Tensor] = {}
    for sites in _by_layer(moves):
        estimates |= _through_pattern(model, sides, {site: moves[site] for site in sites}, usual, slopes)
    return estimates


@torch.no_grad()
def _through_pattern(
    model: HookedModel,
    sides: Sides,
    moves: Mapping[str, Float[Tensor, "position d_head"]],
    usual: Mapping[str, Float[Tensor, "position position"]],
    slopes: Mapping[str, Float[Tensor, "position position"]],
) -> dict[str, Float[Tensor, "position"]]:
    """The queries, or the keys, of one layer. A row of the pattern has one query, so that all are moved in one run; but all
    keys, so that each position's is moved in a run of its own."""
    first, length = parse_site(next(iter(moves))), len(sides.patched)
    group = model.info.n_heads // model.heads(first.kind)
    live = torch.stack([move.any(-1) for move in moves.values()]).any(0).nonzero()[:, 0]
    totals = {site: torch.zeros(length, dtype=torch.float64, device=model.device) for site in moves}
    if not len(live):  # as of the first layer's keys where all tokens that are patched are their counterparts
        return totals
    runs = torch.ones(1, length) if first.kind == "q" else torch.eye(length)[live.cpu()]
    reads = {
        f"pattern.{first.layer}.{head}": _weighing(usual, slopes, f"pattern.{first.layer}.{head}")
        for head in range(model.info.n_heads)
    }
    for part in runs.split(max(1, _TOKENS_AT_ONCE // length)):
        places = part.to(model.device, model.dtype)[:, :, None]
        edits = {site: _adding(torch.zeros(()), places * move) for site, move in moves.items()}
        changes = model.run(
            torch.tensor([sides.patched] * len(part)), reads=reads, edits=edits, last_layer=first.layer
        ).activations
        for site in moves:
            head = parse_site(site).head or 0
            change = torch.stack(
                [changes[f"pattern.{first.layer}.{head * group + query}"] for query in range(group)]
            ).sum(0)
            totals[site] += change[0] if first.kind == "q" else change.sum(-1) @ part.to(change)
    return totals


def _weighing(usual: Mapping[str, Tensor], slopes: Mapping[str, Tensor], site: str) -> Callable[[Tensor], Tensor]:
    """Reduces patterns [run row column] to what their change is worth, for each row."""
    return lambda value: ((value.to(usual[site].device) - usual[site]).double() * slopes[site].double()).sum(-1)


def _audit(
    model: HookedModel,
    pairs: Sequence[PatchPair],
    cells: Sequence[Sequence[Cell]],
    effects: Sequence[Float[np.ndarray, "_"]],
    direction: Direction,
    exactly: Callable[..., ExactResult],
    count: int,
    seed: int,
) -> tuple[Audit, tuple[str, ...]]:
    """Step 4, and what is to be said of the exact cells; cells that lie wholly before the first difference are known to have no effect, and
    are not drawn."""
    generator = np.random.default_rng(seed)
    each = max(2, -(-count // len(pairs)))
    samples = []
    for pair, own, row in zip(pairs, cells, effects, strict=True):
        first = pair.sides(direction).alignment.unchanged
        open_cells = [any(position >= first for patch in cell for position in patch.positions) for cell in own]
        samples.append(
            generator.permutation(np.flatnonzero(np.isfinite(row) & np.array(open_cells, dtype=bool)))[:each]
        )
    chosen_cells = [[own[index] for index in sample.tolist()] for own, sample in zip(cells, samples, strict=True)]
    exact = exactly(model, pairs, chosen_cells)
    truth = np.concatenate(exact.effects)
    guess = np.concatenate([row[sample] for row, sample in zip(effects, samples, strict=True)])
    if not len(truth):
        return Audit(0, 0.0), exact.notes
    worst = int(np.abs(truth - guess).argmax())
    names = [
        f"{' + '.join(patch.site for patch in cell)} at {_places(cell[0].positions)} of {pair.name or 'the pair'}"
        for pair, own in zip(pairs, chosen_cells, strict=True)
        for cell in own
    ]
    said = f"{names[worst]}: estimated {guess[worst]:.3f}, exactly {truth[worst]:.3f}"
    return Audit(len(truth), float(np.abs(truth - guess).max()), rank_correlation(truth, guess), said), exact.notes


def _places(positions: Sequence[int]) -> str:
    return f"position {positions[0]}" if len(positions) == 1 else f"{len(positions)} positions"


def rank_correlation(first: Float[np.ndarray, "cell"], second: Float[np.ndarray, "cell"]) -> float | None:
    """Spearman's rank correlation of two rows of effects, -1 to 1; None where either is constant."""
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)
