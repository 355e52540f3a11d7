"""What every pooling is: a function of the tokens' scores, and its running form, which gives the same on every prefix.

A probe gives each token one score or several: its *channels*. Channel 0 holds the probe's intercept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.poolings.arrays import Array
from probes.poolings.rows import TokenRows

Channels = Float[Tensor, "token *problem channel"]
"""Scores of the tokens of one text; a problem is a layer, or a probe of several at one layer."""


TokenScores = Float[Tensor, "*row channel"] | Float[np.ndarray, "*row channel"]
"""Scores of one token of each row."""

Heads = Float[Tensor, "problem channel d_model"]
"""Directions whose products with a token are its scores."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A pooling fitted together with its probe, for every problem; float64, on normalised tokens."""

    heads: Heads
    intercept: Float[Tensor, "problem"]
    objective: Float[Tensor, "problem"]
    gradient: Float[Tensor, "problem"]
    """Norm of the objective's gradient over that of the weights."""


@runtime_checkable
class Running(Protocol):
    """The score of the tokens that have been seen. Its memory does not grow with their number."""

    def update(self, scores: TokenScores) -> Array:
        """Take in the next token of each row [*row channel], and give the score [*row] of all of that row's tokens so far, in float64."""


class Pooling:
    """From the scores of tokens to the score of a text."""

    channels: ClassVar[int] = 1
    """Scores of a token; more than one where the pooling is learned."""
    read: str = "every"
    """What is extracted to fit a linear probe, as `ExtractionSpec.position`; `every` where the pooling is fitted on tokens."""

    @classmethod
    def named(cls, argument: str) -> Pooling:
        """The pooling of a name such as `first:3`, by what stands after the colon."""
        return cls()

    def reduce(self, scores: Channels) -> Float[Tensor, "*problem"]:
        """The score of one text by its tokens, of which there is at least one."""
        raise NotImplementedError

    def running(self) -> Running:
        """A new running form, that has seen nothing.

        Raises:
            UserError: the pooling cannot be known before the text is whole.
        """
        raise NotImplementedError

    def prepare(self, rows: TokenRows) -> None:
        """Turn tokens, in place, into what the pooling is fitted to; they are normalised afterwards."""

    def fit(
        self, rows: TokenRows, labels: Float[Tensor, "problem text"], C: float, start: Heads | None = None
    ) -> Learned:
        """Fit the directions of a learned pooling, all problems at once.

        Args:
            rows: prepared and normalised; one layer that all problems share, or one for each.
            labels: 0 or 1, both in every problem.
            C: inverse penalty, as of the logistic probe.
            start: where the convex first stage begins, of which the result does not depend; zero where None.
        """
        raise TypeError(f"{type(self).__name__} is not fitted: a linear probe is")

    def of_one_token(self, heads: Heads) -> Float[Tensor, "problem d_model"]:
        """The direction whose product with a token is the score of that token alone, but for the intercept."""
        return heads[:, 0]

    def alone(
        self, directions: Float[Tensor, "probe d_model"], own: Float[Tensor, "channel d_model"]
    ) -> Float[Tensor, "probe channel d_model"]:
        """Heads of probes that read one direction each, pooled as the probe `own` [channel d_model] pools: for random directions."""
        return directions[:, None]

    def __call__(self, scores: Channels, lengths: Sequence[int]) -> Float[Tensor, "prompt *problem"]:
        """The scores of several texts, laid end to end.

        Args:
            scores: of all their tokens.
            lengths: tokens of each text, in order; every one at least 1.

        Raises:
            ValueError: the lengths do not add up, or one of them is below 1.
        """
        check_lengths(len(scores), lengths)
        pieces = scores.split(list(lengths))
        return torch.stack([self.reduce(piece) for piece in pieces]) if pieces else scores[..., 0]


def check_lengths(tokens: int, lengths: Sequence[int]) -> None:
    """Raise ValueError unless the lengths are positive and add up."""
    if sum(lengths) != tokens or min(lengths, default=1) < 1:
        raise ValueError(f"lengths must be positive and add up to {tokens} tokens, found {list(lengths)[:8]}")
