"""L2 logistic regression at every layer, at the optimum of scikit-learn's `LogisticRegression(C=...)`.

Minimises C * sum_i s_i log(1 + exp(-z_i (w . x_i + b))) + |w|^2 / 2 over w and an unpenalised b, with z_i in {-1, 1}.

1. Centre the rows: the intercept takes the shift up, and the problem is far better conditioned.
2. Work in the smaller space. With few rows, w = X^T a (the representer theorem) and everything happens in the Gram matrix
   K = X X^T; with many rows, in w itself.
3. Newton's method. In the Gram space each step solves with I + E K E, E = sqrt(C D), which stays well conditioned when
   some weights D vanish (Rasmussen & Williams, "Gaussian Processes for Machine Learning", algorithm 3.1).
4. Search each step's line exactly. Along a line the objective needs no matrix, so this is free; and on separable data,
   where plain Newton gains about one nat of margin a step, it saves most of the steps.
5. At the end take the gradient anew from the data, in float64, and say so where it is not small enough.
"""

from __future__ import annotations

import warnings
from copy import copy
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn.functional import softplus

from probes.classifiers.base import (
    Coefficients,
    FitRows,
    Fitted,
    LinearClassifier,
    as_layers,
    check_labels,
    gather,
    linear_scores,
)
from probes.config import TrainConfig

CONSTANT = 1e-6
"""A layer whose spread is below this share of its size holds float32 rounding and nothing else."""

STALLED = 8
"""Steps without halving the gradient after which rounding, not distance, is what is left."""

Rows = Float[Tensor, "layer prompt"]
Matrix = Float[Tensor, "layer row column"]
Unknown = Float[Tensor, "layer unknown"]
Scalars = Float[Tensor, "layer"]


class LogisticProbe(LinearClassifier):
    """L2-regularised logistic regression at every layer.

    Args:
        C: inverse strength of the penalty, > 0, as in scikit-learn.
        tol: stop when the gradient's norm is below `tol` |w|. The objective's Hessian is at least the identity, so `tol`
            bounds the relative error of the weights.
        max_iter: Newton steps at most; about 6 are usual.
        device: where to fit; None means where the data is.
        memory: bytes of working memory, which bounds how many layers are fitted at once; None means 256 MiB on a CPU,
            where one large layer fills the cores and batching only adds waiting, and 8 GiB elsewhere.
    """

    n_iter_: Shaped[Tensor, "layer"]
    """Newton steps taken."""
    gradient_norm_: Float[Tensor, "layer"]
    """Norm of the objective's gradient over |w|, taken anew from the data in float64: bounds the relative error of w."""

    def __init__(
        self,
        C: float = 1.0,
        *,
        tol: float = 1e-7,
        max_iter: int = 100,
        device: str | torch.device | None = None,
        memory: int | None = None,
    ) -> None:
        if not C > 0:
            raise ValueError(f"C must be positive, found {C}")
        self.C, self.tol, self.max_iter, self.device, self.memory = C, tol, max_iter, device, memory

    @classmethod
    def configured(cls, config: TrainConfig) -> LogisticProbe:
        """With the penalty and the device of a run."""
        return cls(config.C, device=config.device)

    def fit(
        self,
        x: Float[Tensor, "prompt *layer d_model"],
        y: Shaped[Tensor, "prompt *problem"],
        sample_weight: Float[Tensor, "prompt"] | None = None,
    ) -> LogisticProbe:
        """Fit every layer to the labels `y` (0/1); `y` may also be [prompt layer], another labelling at each layer.

        Warns:
            ConvergenceWarning: a layer's gradient is still above `tol` after `max_iter` steps.
        """
        x = as_layers(x)
        labels = check_labels(y, x)
        weight = torch.ones(len(x)) if sample_weight is None else sample_weight
        on_cpu = torch.device(self.device or x.device).type == "cpu"
        memory = self.memory or (1 << 28 if on_cpu else 1 << 33)
        at_once = layers_at_once(x.shape[0], x.shape[1], x.shape[2], memory)
        parts = [
            self._fit_layers(x[:, i : i + at_once], labels[i : i + at_once], weight)
            for i in range(0, x.shape[1], at_once)
        ]
        self.coef_, self.intercept_, self.n_iter_, self.gradient_norm_ = (
            torch.cat(column) for column in zip(*parts, strict=True)
        )
        self._warn_unless_converged()
        return self

    def fit_rows(self, rows: FitRows) -> Fitted:
        """Fit every layer on normalised features, all shuffles of a layer at once; coefficients are in the activations' own units."""
        x = gather(rows.stream(), len(rows.labels))
        mean, inverse = normalise(x)

        def solve(features: Tensor, y: Tensor, layers: slice) -> Coefficients:
            probe = copy(self).fit(features, y)
            coef = probe.coef_.cpu() * inverse[layers, None].cpu()
            return coef, probe.intercept_.cpu() - (coef * mean[layers].cpu()).sum(-1)

        def shuffled(layer: int) -> Coefficients:
            copies = x[:, layer : layer + 1].expand(-1, len(rows.shuffles), -1)
            return solve(copies, torch.from_numpy(rows.shuffles.T), slice(layer, layer + 1))

        return Fitted(*solve(x, torch.from_numpy(rows.labels), slice(None)), shuffled)

    def _fit_layers(
        self, x: Float[Tensor, "prompt layer d_model"], y: Rows, weight: Float[Tensor, "prompt"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Coefficients, intercepts, steps and final relative gradient norms of a few layers."""
        device = x.device if self.device is None else torch.device(self.device)
        rows = x.to(device).transpose(0, 1).to(torch.float64, copy=True)
        y, weight = y.to(device), weight.to(device, torch.float64)
        mean = rows.mean(1)
        rows -= mean[:, None]
        space: Space = GramSpace(rows) if rows.shape[1] <= 2 * rows.shape[2] else WeightSpace(rows)
        unknown, bias, steps = newton(space, y, self.C * weight.expand_as(y), self.tol, self.max_iter)
        coef = space.coef(unknown)
        gradient = relative_gradient(rows, y, self.C * weight, coef, bias)
        return coef, bias - (coef * mean).sum(-1), steps, gradient

    def _warn_unless_converged(self) -> None:
        # The fresh gradient carries rounding that the solver's own recurrence does not: allow it a factor of ten.
        late = (~(self.gradient_norm_ <= 10 * self.tol)).nonzero().flatten().tolist()
        if late:
            worst = float(self.gradient_norm_[late].max())
            warnings.warn(
                f"logistic probe: layers {late} not converged, relative gradient norm up to {worst:.1e} > tol "
                f"{self.tol:.1e}; scale the features, lower C or raise max_iter",
                ConvergenceWarning,
                stacklevel=3,
            )


def normalise(
    x: Float[Tensor, "prompt layer d_model"],
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer"]]:
    """Centre each layer in place and scale it by one number to unit root mean square; returns mean and 1 / scale.

    One number a layer, not one a feature: C then means the same at every layer, and the geometry is left as it is. A
    layer that does not vary (the same last token everywhere, at the first layers) gets 1 / scale = 0.
    """
    mean = torch.stack([x[:, i].double().mean(0) for i in range(x.shape[1])])
    inverse = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for i in range(x.shape[1]):
        centred = x[:, i].double() - mean[i]
        spread = centred.square().mean().sqrt()
        if spread > CONSTANT * mean[i].square().mean().sqrt():
            inverse[i] = 1 / spread
        x[:, i] = (centred * inverse[i]).to(x.dtype)
    return mean, inverse


def layers_at_once(prompts: int, layers: int, width: int, memory: int) -> int:
    """How many layers fit the memory: the rows, and three matrices of the smaller space, in float64."""
    space = prompts if prompts <= 2 * width else width
    return min(layers, max(1, memory // (8 * (2 * prompts * width + 3 * space * space))))


@runtime_checkable
class Space(Protocol):
    """Coordinates of w in which one step is cheap."""

    def scores(self, unknown: Unknown) -> Rows:
        """w . x for every row."""

    def zero(self) -> Unknown:
        """w = 0."""

    def inner(self, left: Unknown, right: Unknown, right_scores: Rows) -> Scalars:
        """Inner product of the two w, the second of which has the scores `right_scores`."""

    def coef(self, unknown: Unknown) -> Float[Tensor, "layer d_model"]:
        """w itself."""

    def gradient(self, unknown: Unknown, pull: Rows) -> Unknown:
        """Gradient by w, in these coordinates, where `pull` is C s (y - p)."""

    def step(self, gradient: Unknown, bias_gradient: Scalars, curvature: Rows) -> tuple[Unknown, Scalars]:
        """The Newton step of w and b, where `curvature` is C s p (1 - p)."""


class GramSpace:
    """w = X^T a: for few rows."""

    def __init__(self, rows: Float[Tensor, "layer prompt d_model"]) -> None:
        self.rows, self.gram = rows, gram(rows)

    def scores(self, unknown: Unknown) -> Rows:
        return apply(self.gram, unknown)

    def zero(self) -> Unknown:
        return torch.zeros_like(self.rows[:, :, 0])

    def inner(self, left: Unknown, right: Unknown, right_scores: Rows) -> Scalars:
        return (left * right_scores).sum(-1)

    def coef(self, unknown: Unknown) -> Float[Tensor, "layer d_model"]:
        return apply(self.rows.mT, unknown)

    def gradient(self, unknown: Unknown, pull: Rows) -> Unknown:
        return unknown - pull

    def step(self, gradient: Unknown, bias_gradient: Scalars, curvature: Rows) -> tuple[Unknown, Scalars]:
        """Solve (I + D K) da + D db = -g and 1^T D (K da + db) = -g_b, with (I + D K)^-1 = I - E B^-1 E K."""
        root = curvature.sqrt()
        system = self.gram * root[:, :, None]
        system *= root[:, None, :]
        system.diagonal(dim1=-2, dim2=-1).add_(1)
        factor = factorise(system)
        right = torch.stack([gradient, curvature], dim=-1)
        whitened = solve_factored(factor, root[..., None] * (self.gram @ right))
        solved = right - root[..., None] * whitened
        by_gradient, by_bias = solved.unbind(-1)
        bias = (gradient.sum(-1) - bias_gradient - by_gradient.sum(-1)) / positive(by_bias.sum(-1))
        return -by_gradient - by_bias * bias[:, None], bias


class WeightSpace:
    """w itself: for many rows."""

    def __init__(self, rows: Float[Tensor, "layer prompt d_model"]) -> None:
        self.rows = rows

    def scores(self, unknown: Unknown) -> Rows:
        return apply(self.rows, unknown)

    def zero(self) -> Unknown:
        return torch.zeros_like(self.rows[:, 0])

    def inner(self, left: Unknown, right: Unknown, right_scores: Rows) -> Scalars:
        return (left * right).sum(-1)

    def coef(self, unknown: Unknown) -> Float[Tensor, "layer d_model"]:
        return unknown

    def gradient(self, unknown: Unknown, pull: Rows) -> Unknown:
        return unknown - apply(self.rows.mT, pull)

    def step(self, gradient: Unknown, bias_gradient: Scalars, curvature: Rows) -> tuple[Unknown, Scalars]:
        """Solve the bordered system by its Schur complement."""
        hessian = gram((self.rows * curvature.sqrt()[..., None]).mT)
        hessian.diagonal(dim1=-2, dim2=-1).add_(1)
        border = apply(self.rows.mT, curvature)
        solved = solve_factored(factorise(hessian), torch.stack([gradient, border], dim=-1))
        by_gradient, by_border = solved.unbind(-1)
        corner = positive(curvature.sum(-1) - (border * by_border).sum(-1))
        bias = ((border * by_gradient).sum(-1) - bias_gradient) / corner
        return -by_gradient - by_border * bias[:, None], bias


def newton(
    space: Space, y: Rows, weight: Rows, tol: float, max_iter: int
) -> tuple[Unknown, Scalars, Shaped[Tensor, "layer"]]:
    """Minimise over w and b from the constant classifier; returns both and the steps taken. `weight` is C s."""
    bias = torch.logit((weight * y).sum(-1) / weight.sum(-1))
    unknown, steps = space.zero(), torch.zeros_like(bias, dtype=torch.int64)
    scores = bias[:, None].expand_as(y)
    lowest, idle = torch.full_like(bias, torch.inf), torch.zeros_like(steps)
    for _ in range(max_iter):
        probability = torch.sigmoid(scores)
        pull = weight * (y - probability)
        gradient, bias_gradient = space.gradient(unknown, pull), -pull.sum(-1)
        size = space.inner(gradient, gradient, space.scores(gradient)).clamp_min(0).sqrt()
        norm = space.inner(unknown, unknown, scores - bias[:, None]).clamp_min(0).sqrt()
        moving = (size > tol * norm) | (bias_gradient.abs() > tol * pull.abs().sum(-1))
        idle = torch.where(size < 0.5 * lowest, 0, idle + 1)
        lowest = torch.minimum(lowest, size)
        active = moving & (idle < STALLED)
        if not bool(active.any()):
            break
        step, bias_step = space.step(gradient, bias_gradient, weight * probability * (1 - probability))
        slope = space.scores(step)
        penalty = space.inner(unknown, step, slope), space.inner(step, step, slope)
        length = line_search(scores, slope + bias_step[:, None], y, weight, *penalty) * active
        unknown, bias, steps = unknown + length[:, None] * step, bias + length * bias_step, steps + active
        scores = space.scores(unknown) + bias[:, None]
    return unknown, bias, steps


def line_search(scores: Rows, slope: Rows, y: Rows, weight: Rows, linear: Scalars, quadratic: Scalars) -> Scalars:
    """The length t > 0 that minimises the objective at `scores` + t `slope`, by Newton's method inside a bracket.

    `linear` and `quadratic` are <w, step> and <step, step>: the penalty is their t linear + t^2 quadratic / 2.
    """
    low, high = torch.zeros_like(linear), torch.full_like(linear, torch.inf)
    t = torch.ones_like(linear)
    for _ in range(25):
        probability = torch.sigmoid(scores + t[:, None] * slope)
        first = (weight * (probability - y) * slope).sum(-1) + linear + t * quadratic
        second = (weight * probability * (1 - probability) * slope.square()).sum(-1) + quadratic
        low, high = torch.where(first < 0, t, low), torch.where(first < 0, high, t)
        guess = t - first / positive(second)
        inside = (guess > low) & (guess < high)
        previous, t = t, torch.where(inside, guess, torch.where(high.isinf(), 2 * t, (low + high) / 2))
        if bool(((t - previous).abs() <= 1e-3 * t).all()):  # a step's length needs few digits: Newton corrects the rest
            break
    return t


def objective(
    x: Float[Tensor, "prompt layer d_model"],
    y: Shaped[Tensor, "prompt"],
    coef: Float[Tensor, "layer d_model"],
    intercept: Float[Tensor, "layer"],
    C: float = 1.0,
) -> Float[Tensor, "layer"]:
    """C * sum of log losses + |w|^2 / 2 at every layer, in float64: what fitting minimises."""
    sign = 2 * y.double()[:, None] - 1
    losses = softplus(-sign * linear_scores(x, coef.double(), intercept.double()))
    return C * losses.sum(0) + coef.double().square().sum(-1) / 2


def relative_gradient(
    rows: Float[Tensor, "layer prompt d_model"],
    y: Rows,
    weight: Float[Tensor, "prompt"],
    coef: Float[Tensor, "layer d_model"],
    bias: Scalars,
) -> Scalars:
    """Norm of the objective's gradient by w over |w|; 0 where both vanish."""
    pull = weight * (y - torch.sigmoid(apply(rows, coef) + bias[:, None]))
    gradient = torch.linalg.vector_norm(coef - apply(rows.mT, pull), dim=-1)
    size = torch.linalg.vector_norm(coef, dim=-1)
    return torch.where(gradient > 0, gradient / positive(size), 0.0)


def gram(rows: Matrix) -> Float[Tensor, "layer row row"]:
    """rows rows^T; symmetric, so that only the blocks on and below the diagonal are multiplied out."""
    count, size = rows.shape[1], max(256, -(-rows.shape[1] // 6))
    out = rows.new_empty(len(rows), count, count)
    for start in range(0, count, size):
        stop = min(start + size, count)
        torch.matmul(rows[:, start:stop], rows[:, :stop].mT, out=out[:, start:stop, :stop])
        out[:, :start, start:stop] = out[:, start:stop, :start].mT
    return out


def factorise(matrix: Float[Tensor, "layer row row"]) -> Float[Tensor, "layer row row"]:
    """Lower Cholesky factor.

    Raises:
        FloatingPointError: the matrix is not positive definite in float64 (features of absurd scale).
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):
        raise FloatingPointError(
            "the logistic Hessian is not positive definite in float64; scale the features or lower C"
        )
    return factor


def solve_factored(
    factor: Float[Tensor, "layer row row"], right: Float[Tensor, "layer row side"]
) -> Float[Tensor, "layer row side"]:
    """Solve with a lower Cholesky factor (two triangular solves are faster on a CPU than cholesky_solve)."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


def apply(matrix: Matrix, vector: Float[Tensor, "layer column"]) -> Float[Tensor, "layer row"]:
    """Matrix times vector at every layer."""
    return (matrix @ vector[..., None])[..., 0]


def positive(value: Scalars) -> Scalars:
    """Keep a quantity that is positive in exact arithmetic from being divided by as zero."""
    return value.clamp_min(torch.finfo(value.dtype).tiny)
