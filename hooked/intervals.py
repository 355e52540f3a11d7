"""Intervals of rates."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson, 1927): sound at 0 and at n, where the normal one is not.

    Args:
        count: how many of `n` were hits, 0 to n.
        n: sample size; where it is 0 nothing is known and the interval is [0, 1].

    Raises:
        ValueError: count is outside 0 to n.
    """
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is no proportion")
    if not n:
        return 0.0, 1.0
    p, shift = count / n, Z95**2 / n
    centre, half = p + shift / 2, Z95 * math.sqrt(p * (1 - p) / n + shift / n / 4)
    low, high = (centre - half) / (1 + shift), (centre + half) / (1 + shift)
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    return (max(0.0, low) if count else 0.0), (min(1.0, high) if count < n else 1.0)
