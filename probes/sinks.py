"""Whether a few rows decide what a probe reads: tokens that are attention sinks, or a handful of prompts far from all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probes.config import Aggregation
from probes.probe import LinearProbe
from triggerlens import FAR, far_norm, is_far, variance_share

SAMPLE = 32
"""Prompts whose tokens are looked at."""
_MOST, _FEW = 0.5, 0.05
"""Share of the variance from which at most so large a share of the prompts is said to make it."""


def far_tokens(
    rows: Iterator[tuple[int, Float[Tensor, "token 1 d_model"]]], probe: LinearProbe, how: Aggregation
) -> str | None:
    """A line on tokens over 8 times the median norm at the probe's site, and what they do to the prompts' scores; None where there
    are none, or where the probe reads neither the mean nor the highest of all tokens.

    Args:
        rows: activations of every token of some prompts, at the probe's site.
        probe: fitted to them.
        how: what the probe reads.
    """
    if how not in ("mean", "max"):
        return None
    prompts = [x[:, 0].double().cpu() for _, x in rows]
    limit = far_norm(torch.cat([x.norm(dim=1) for x in prompts]))
    far = [x.norm(dim=1) > limit for x in prompts]
    count, first = sum(int(marks.sum()) for marks in far), sum(bool(marks[0]) for marks in far)
    if not count:
        return None
    what = (
        f"{count} of the {sum(map(len, prompts))} tokens of {len(prompts)} prompts are over {FAR:g} times the median norm at "
        f"{probe.site} (attention sinks, mostly; in {first} prompts the first token)"
    )
    if how == "max":
        won = sum(bool(marks[int(probe(x).argmax())]) for x, marks in zip(prompts, far, strict=True))
        return f"{what}: in {won} of the prompts one of them has the highest score, which is what the probe reads"
    return f"{what}: they make {_share_of_means(prompts, far):.0%} of the variance between prompts of the mean that the probe reads"


def _share_of_means(prompts: Sequence[Tensor], far: Sequence[Tensor]) -> float:
    """How much less the means over tokens vary where the far ones are set to zero; 0 to 1."""
    whole, rest = (
        torch.stack(means)
        for means in zip(
            *((x.mean(0), (x * ~marks[:, None]).mean(0)) for x, marks in zip(prompts, far, strict=True)), strict=True
        )
    )
    varied, left = (float((means - means.mean(0)).square().sum()) for means in (whole, rest))
    return max(0.0, 1 - left / varied) if varied else 0.0


def far_prompts(x: Float[Tensor, "prompt d_model"], site: str) -> str | None:
    """A line where a few prompts, far from all others, make most of the variance of what a probe is fitted to; else None.

    Args:
        x: activations of some prompts, as the probe reads them.
        site: where.
    """
    centred = x.double() - x.double().median(0).values
    far = is_far(centred)
    share = variance_share(x, far)
    if share < _MOST or int(far.sum()) > max(1, _FEW * len(x)):
        return None
    return (
        f"{int(far.sum())} of {len(x)} test prompts lie over {FAR:g} times as far from the middle as the median one at {site} and make "
        f"{share:.0%} of the variance there: the scale that the probe's penalty refers to is theirs"
    )
