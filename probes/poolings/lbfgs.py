"""L-BFGS for many small problems at once (Nocedal and Wright, "Numerical Optimization", algorithms 7.4 and 7.5).

Each problem has its own history and its own step; only the evaluation is shared, which is where the time goes. The line search
brackets a point that satisfies the weak Wolfe conditions, by doubling and bisection (Lewis and Overton, 2013).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Point = Float[Tensor, "problem unknown"]
Scalars = Float[Tensor, "problem"]
Objective = Callable[[Point], tuple[Scalars, Point]]
"""Value and gradient of every problem, in float64."""

HISTORY = 20
DECREASE, CURVATURE = 1e-4, 0.9
TRIES = 25
STALLED = 5
"""Steps that no longer lower a problem's value, after which rounding is what is left."""


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where a minimisation ended."""

    point: Point
    value: Scalars
    gradient: Point
    steps: int

    def relative_gradient(self) -> Scalars:
        """Norm of the gradient over that of the point; 0 where both vanish."""
        size, length = torch.linalg.vector_norm(self.gradient, dim=1), torch.linalg.vector_norm(self.point, dim=1)
        return torch.where(size > 0, size / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)


def minimise(
    objective: Objective, start: Point, *, tol: float = 1e-5, rounding: float = 0.0, most: int = 500
) -> Minimum:
    """Minimise every problem.

    Args:
        objective: values and gradients.
        start: one point a problem.
        tol: a problem is done when its gradient's norm is below `tol` times its point's.
        rounding: the relative precision of a value: a step that lowers it by less has not lowered it.
        most: steps.
    """
    point = start.double().clone()
    value, gradient = objective(point)
    history: deque[tuple[Point, Point, Scalars]] = deque(maxlen=HISTORY)
    idle = torch.zeros_like(value)
    steps = 0
    while steps < most:
        active = (Minimum(point, value, gradient, 0).relative_gradient() > tol) & (idle < STALLED)
        if not bool(active.any()):
            break
        direction = _direction(gradient, history) * active[:, None]
        slope = (direction * gradient).sum(1)
        uphill = slope > 0
        direction = torch.where(uphill[:, None], -gradient, direction)
        first = _first_length(gradient) if not history else torch.ones_like(value)
        slack = rounding * value.abs()
        length, new_value, new_gradient = _search(objective, point, value + slack, gradient, direction, first, active)
        moved = length[:, None] * direction
        change = new_gradient - gradient
        history.append((moved, change, _inverse((moved * change).sum(1))))
        idle = torch.where(value - new_value > slack, 0.0, idle + 1)
        stays = length == 0
        value = torch.where(stays, value, new_value)
        point, gradient = point + moved, new_gradient
        steps += 1
    return Minimum(point, value, gradient, steps)


def _direction(gradient: Point, history: deque[tuple[Point, Point, Scalars]]) -> Point:
    """The two-loop recursion; a pair without curvature has an inverse of 0 and drops out."""
    left = gradient.clone()
    alphas = []
    for moved, change, inverse in reversed(history):
        alpha = inverse * (moved * left).sum(1)
        left -= alpha[:, None] * change
        alphas.append(alpha)
    if history:
        moved, change, _ = history[-1]
        scale = (moved * change).sum(1) * _inverse(change.square().sum(1))
        left *= torch.where(scale > 0, scale, 1.0)[:, None]
    for (moved, change, inverse), alpha in zip(history, reversed(alphas), strict=True):
        left += (alpha - inverse * (change * left).sum(1))[:, None] * moved
    return -left


def _first_length(gradient: Point) -> Scalars:
    return 1 / torch.linalg.vector_norm(gradient, dim=1).clamp_min(1.0)


def _inverse(value: Scalars) -> Scalars:
    """1 / value where it is safely positive, else 0."""
    fine = value > 1e-18
    return torch.where(fine, 1 / torch.where(fine, value, 1.0), 0.0)


def _search(
    objective: Objective,
    point: Point,
    value: Scalars,
    gradient: Point,
    direction: Point,
    length: Scalars,
    active: Bool[Tensor, "problem"],
) -> tuple[Scalars, Scalars, Point]:
    """A step of each active problem to below `value`; length 0 where there is none. Returns length, and value and gradient there."""
    slope = (direction * gradient).sum(1)
    low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
    best = (torch.zeros_like(length), value, gradient)
    open_ = active.clone()
    for _ in range(TRIES):
        new_value, new_gradient = objective(point + length[:, None] * direction)
        too_far = ~(new_value <= value + DECREASE * length * slope)
        too_near = ~too_far & ((direction * new_gradient).sum(1) < CURVATURE * slope)
        taken = open_ & ~too_far
        best = (
            torch.where(taken, length, best[0]),
            torch.where(taken, new_value, best[1]),
            torch.where(taken[:, None], new_gradient, best[2]),
        )
        high, low = torch.where(open_ & too_far, length, high), torch.where(open_ & too_near, length, low)
        open_ = open_ & (too_far | too_near)
        if not bool(open_.any()):
            break
        middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        length = torch.where(open_, middle, length)
    return best
