"""What every fitter shares: scikit-learn's way of reading a fitted linear classifier, for all layers at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


class LinearClassifier:
    """A linear score per layer. Fitted attributes end in an underscore, as in scikit-learn."""

    coef_: Float[Tensor, "layer d_model"]
    """Weights, float64, on the device of the data that they were fitted to."""
    intercept_: Float[Tensor, "layer"]

    def decision_function(self, x: Float[Tensor, "prompt *layer d_model"]) -> Float[Tensor, "prompt *layer"]:
        """Score per prompt and layer, positive on the side of the positive class; float64.

        Without the layer axis the probe must have been fitted to one layer.
        """
        if x.ndim == 2:
            return linear_scores(x[:, None], self.coef_, self.intercept_)[:, 0]
        return linear_scores(x, self.coef_, self.intercept_)

    def predict_proba(self, x: Float[Tensor, "prompt *layer d_model"]) -> Float[Tensor, "prompt *layer 2"]:
        """Probability of the negative and of the positive class."""
        score = self.decision_function(x)
        return torch.stack([torch.sigmoid(-score), torch.sigmoid(score)], dim=-1)

    def predict(self, x: Float[Tensor, "prompt *layer d_model"]) -> Shaped[Tensor, "prompt *layer"]:
        """True where the score is positive."""
        return self.decision_function(x) > 0


def linear_scores(
    x: Float[Tensor, "row layer d_model"], coef: Float[Tensor, "layer d_model"], intercept: Float[Tensor, "layer"]
) -> Float[Tensor, "row layer"]:
    """x . coef + intercept at every layer, in float64.

    Raises:
        ValueError: `x` has other layers or another width than `coef`.
    """
    if x.shape[1:] != coef.shape:
        raise ValueError(f"activations are {tuple(x.shape[1:])} (layer, width), the probe is {tuple(coef.shape)}")
    coef, intercept = coef.to(x.device), intercept.to(x.device)
    return torch.stack([x[:, i].double() @ coef[i] for i in range(len(coef))], dim=1) + intercept


def as_layers(x: Float[Tensor, "prompt *layer d_model"]) -> Float[Tensor, "prompt layer d_model"]:
    """Give a [prompt d_model] matrix a layer axis of one; leave a 3-D tensor as it is."""
    return x[:, None] if x.ndim == 2 else x


def check_labels(
    y: Shaped[Tensor, "prompt *problem"], x: Shaped[Tensor, "prompt layer d_model"]
) -> Shaped[Tensor, "layer prompt"]:
    """Labels of every layer's problem in float64, checked to hold both classes.

    Raises:
        ValueError: other values than 0 and 1, other sizes than `x`, or a single class.
    """
    y = y.to(device=x.device, dtype=torch.float64)
    if y.ndim == 1:
        y = y[:, None].expand(-1, x.shape[1])
    if tuple(y.shape) != tuple(x.shape[:2]):
        raise ValueError(f"labels are {tuple(y.shape)}, activations {tuple(x.shape)}")
    if not bool(((y == 0) | (y == 1)).all()):
        raise ValueError("labels must be 0 or 1")
    if bool((y.amin(0) == y.amax(0)).any()):
        raise ValueError("labels hold one class only; a probe needs both")
    return y.T
