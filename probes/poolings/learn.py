"""Fits a pooling together with its probe, at several layers at once.

Minimises C * sum_i log(1 + exp(-z_i (g_i(W) + b))) + |W|^2 / 2 over the heads W and an unpenalised b, z_i in {-1, 1}, where g_i is the
pooling's value of text i, on tokens centred and scaled by one number a layer. With g the mean over tokens this is the logistic probe.

1. The problem is not convex. Every pooling here has a sharpness that turns it into the mean over tokens where it is 0; there the problem
   is convex, with one optimum, which is found from any start.
2. The sharpness is raised in stated steps, each solved to convergence from the one before (graduated non-convexity; Blake and
   Zisserman, 1987). So the result depends on the data alone: on no start, no seed, no order of the texts.
3. The maximum over tokens is fitted as log-mean-exp of finite sharpness, which bounds it from below within log(tokens) / sharpness, and
   applied as the maximum itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from probes.poolings.base import Heads, Learned
from probes.poolings.lbfgs import Minimum, minimise
from probes.poolings.rows import Piece, TokenRows

Pooled = tuple[Float[Tensor, "problem text"], Float[Tensor, "problem token channel"]]
"""Values of a piece's texts, and the derivative of each token's text by that token's scores."""
Smooth = Callable[[Float[Tensor, "problem token channel"], Piece, float], Pooled]
"""A pooling as it is fitted: of token scores, at a sharpness."""

TOL = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Norm of the gradient over that of the weights, at which a stage is done: what the precision of the tokens allows."""
ROUNDING = {torch.float32: 1e-7, torch.float64: 1e-12}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is minimised: problems share the tokens of one layer, or each has its own."""

    rows: TokenRows
    """One layer, which all problems share, or one for each problem."""
    labels: Float[Tensor, "problem text"]
    """0 or 1."""
    C: float
    smooth: Smooth

    def start(self, channels: int, given: Heads | None) -> Heads:
        """Heads of zero, or the given ones of which there must be as many."""
        zero = torch.zeros(len(self.labels), channels, self.rows.x.shape[2], dtype=torch.float64)
        return zero if given is None else zero + given

    def intercept(self) -> Float[Tensor, "problem"]:
        """The intercept of no head at all: the log odds of the labels."""
        return torch.logit(self.labels.mean(1))

    def value(
        self,
        heads: Float[Tensor, "problem channel d_model"],
        intercept: Float[Tensor, "problem"],
        sharpness: float,
        offset: Float[Tensor, "problem text"] | None = None,
    ) -> tuple[Float[Tensor, "problem"], Float[Tensor, "problem channel d_model"], Float[Tensor, "problem"]]:
        """The objective, and its gradient by heads and intercept, in float64; `offset` is added to the texts' scores."""
        value = heads.square().sum((1, 2)) / 2
        slope, slope_intercept = heads.clone(), torch.zeros_like(intercept)
        narrow = heads.to(self.rows.x.dtype)
        for piece in self.rows.pieces():
            pooled, derivative = self.smooth(token_scores(piece.x, narrow), piece, sharpness)
            scores = pooled.double() + intercept[:, None]
            if offset is not None:
                scores += offset[:, piece.texts]
            labels = self.labels[:, piece.texts]
            sign = 2 * labels - 1
            value += self.C * softplus(-sign * scores).sum(1)
            pull = -self.C * sign * torch.sigmoid(-sign * scores)
            slope_intercept += pull.sum(1)
            by_token = derivative * pull.to(derivative.dtype)[:, piece.text, None]
            slope += weighted_tokens(by_token, piece.x).double()
        return value, slope, slope_intercept

    def values(
        self, heads: Float[Tensor, "problem channel d_model"], sharpness: float
    ) -> Float[Tensor, "problem text"]:
        """What the pooling makes of every text, without the intercept."""
        narrow = heads.to(self.rows.x.dtype)
        return torch.cat(
            [self.smooth(token_scores(p.x, narrow), p, sharpness)[0].double() for p in self.rows.pieces()], dim=1
        )

    def solve(
        self,
        heads: Float[Tensor, "problem channel d_model"],
        intercept: Float[Tensor, "problem"],
        stages: Sequence[float],
        offset: Float[Tensor, "problem text"] | None = None,
    ) -> Learned:
        """Minimise at one sharpness after the other, each from where the one before ended."""
        shape = heads.shape
        point = torch.cat([heads.flatten(1), intercept[:, None]], dim=1)
        found: Minimum | None = None
        dtype = self.rows.x.dtype
        for number, sharpness in enumerate(stages):
            tol = TOL[dtype] if number in (0, len(stages) - 1) else 100 * TOL[dtype]
            found = minimise(_Flat(self, shape, sharpness, offset), point, tol=tol, rounding=ROUNDING[dtype])
            point = found.point
        assert found is not None
        return Learned(point[:, :-1].reshape(shape), point[:, -1], found.value, found.relative_gradient())


@dataclass(frozen=True, slots=True)
class _Flat:
    """A problem as a function of one vector: heads, then intercept."""

    problem: Problem
    shape: torch.Size
    sharpness: float
    offset: Tensor | None

    def __call__(self, point: Tensor) -> tuple[Tensor, Tensor]:
        heads, intercept = point[:, :-1].reshape(self.shape), point[:, -1]
        value, by_heads, by_intercept = self.problem.value(heads, intercept, self.sharpness, self.offset)
        return value, torch.cat([by_heads.flatten(1), by_intercept[:, None]], dim=1)


def token_scores(
    x: Float[Tensor, "layer token d_model"], heads: Float[Tensor, "problem channel d_model"]
) -> Float[Tensor, "problem token channel"]:
    """Scores of every token; the tokens of a single layer are shared by all problems."""
    if len(x) == len(heads):
        return x @ heads.mT
    return (x[0] @ heads.flatten(0, 1).T).unflatten(1, heads.shape[:2]).transpose(0, 1)


def weighted_tokens(
    weights: Float[Tensor, "problem token channel"], x: Float[Tensor, "layer token d_model"]
) -> Float[Tensor, "problem channel d_model"]:
    """Sums of tokens by weight: the transpose of `token_scores`."""
    if len(x) == len(weights):
        return weights.mT @ x
    return (weights.transpose(0, 1).flatten(1).T @ x[0]).unflatten(0, (len(weights), -1))


def sum_by_text(x: Float[Tensor, "problem token channel"], piece: Piece) -> Float[Tensor, "problem text channel"]:
    """Sums over the tokens of each text."""
    out = x.new_zeros(x.shape[0], len(piece.lengths), x.shape[2])
    return out.index_add_(1, piece.text, x)


def weights_by_text(x: Float[Tensor, "problem token channel"], piece: Piece) -> tuple[Tensor, Tensor]:
    """Softmax over the tokens of each text, and the log of the sum of exponentials [problem text channel]."""
    index = piece.text[None, :, None].expand_as(x)
    highest = x.new_full((x.shape[0], len(piece.lengths), x.shape[2]), -torch.inf)
    highest.scatter_reduce_(1, index, x, "amax")
    exponential = (x - highest[:, piece.text]).exp_()
    total = sum_by_text(exponential, piece)
    return exponential / total[:, piece.text], total.log() + highest
