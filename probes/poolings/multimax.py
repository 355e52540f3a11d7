"""MultiMax: several directions, each read where it is highest, and added up (Kramár et al., arXiv 2601.11516, section 3).

What is said at one token is not diluted by the tokens around it, however many they are; and two heads can ask for two
things that stand at different places.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from probes.poolings.base import Channels, Pooling, Running
from probes.poolings.highest import RunningHighest

HEADS = 4


class MultiMax(Pooling):
    """sum_h max_j (head_h . x_j) + b: each channel is a head; channel 0 holds b too."""

    channels = HEADS

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        return scores.amax(0).sum(-1)

    def running(self) -> Running:
        return RunningHighest()
