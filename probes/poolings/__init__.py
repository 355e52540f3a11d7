"""From what a probe says of tokens to what it says of a text."""

from probes.poolings.registry import (
    LEARNED,
    POOLINGS,
    ROLLING_WINDOW,
    check_position,
    is_learned,
    new_pooling,
)

__all__ = ["LEARNED", "POOLINGS", "ROLLING_WINDOW", "check_position", "is_learned", "new_pooling"]
