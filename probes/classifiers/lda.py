"""Linear discriminant analysis with shrinkage: mean difference, whitened by the within-class covariance.

The covariance is shrunk towards a multiple of the identity: (1 - s) S + s tr(S)/d I, as scikit-learn's
`LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)` does. `shrinkage="auto"` takes s from Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices" (2004), on the pooled within-class deviations.
(scikit-learn's "auto" standardises each feature and shrinks each class by itself, so its s is another one.)
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probes.classifiers.base import Coefficients, FitRows, Fitted, LinearClassifier, as_layers, check_labels
from probes.classifiers.moments import Moments, stream_moments
from probes.config import TrainConfig


class LDAProbe(LinearClassifier):
    """Linear discriminant at every layer.

    Args:
        shrinkage: in [0, 1], or "auto". With 0 there must be more prompts than dimensions.
    """

    shrinkage_: Float[Tensor, "layer"]
    """The shrinkage used at each layer."""

    def __init__(self, shrinkage: float | Literal["auto"] = "auto") -> None:
        if shrinkage != "auto" and not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must be 'auto' or in [0, 1], found {shrinkage}")
        self.shrinkage = shrinkage

    @classmethod
    def configured(cls, config: TrainConfig) -> LDAProbe:
        """With the shrinkage of a run."""
        return cls(config.shrinkage)

    def fit(self, x: Float[Tensor, "prompt *layer d_model"], y: Shaped[Tensor, "prompt"]) -> LDAProbe:
        """Fit to activations held in memory. Returns self."""
        layers = as_layers(x)
        check_labels(y, layers)
        return self.fit_moments(Moments(scatter=True).update(layers, y))

    def fit_moments(self, moments: Moments) -> LDAProbe:
        """Fit to streamed moments with scatter. Returns self.

        Raises:
            ValueError: the covariance is singular (no shrinkage and too few prompts).
        """
        negative, positive = moments.mean
        covariance = moments.within
        if self.shrinkage == "auto":
            self.shrinkage_ = ledoit_wolf(covariance, moments.fourth, sum(moments.count))
        else:
            self.shrinkage_ = torch.full_like(covariance[:, 0, 0], float(self.shrinkage))
        difference = positive - negative
        self.coef_ = self.solve(covariance, difference, self.shrinkage_)
        prior = torch.tensor(moments.count, dtype=torch.float64).log()
        self.intercept_ = -((positive + negative) / 2 * self.coef_).sum(-1) + float(prior[1] - prior[0])
        return self

    def fit_rows(self, rows: FitRows) -> Fitted:
        """Fit from moments; on shuffled labels from their means alone, since the total covariance knows no labels."""
        moments, nulls = stream_moments(rows, scatter=True)
        self.fit_moments(moments)
        share = moments.count[0] * moments.count[1] / sum(moments.count) ** 2

        def shuffled(layer: int) -> Coefficients:
            gap = moments.mean[1, layer] - moments.mean[0, layer]
            total = moments.within[layer] + share * torch.outer(gap, gap)
            negative, positive = (means.to(total.device) for means in nulls.means(layer))
            gaps, shrinkage = positive - negative, self.shrinkage_[layer : layer + 1]
            within = (total - share * torch.outer(g, g) for g in gaps)
            coef = torch.cat([self.solve(w[None], g[None], shrinkage) for w, g in zip(within, gaps, strict=True)])
            return coef.cpu(), -((positive + negative) / 2 * coef).sum(-1).cpu()

        return Fitted(self.coef_.cpu(), self.intercept_.cpu(), shuffled)

    @staticmethod
    def solve(
        covariance: Float[Tensor, "layer d_model d_model"],
        difference: Float[Tensor, "layer d_model"],
        shrinkage: Float[Tensor, "layer"],
    ) -> Float[Tensor, "layer d_model"]:
        """Shrunk covariance^-1 difference; a layer at which nothing varies has coefficient zero.

        Raises:
            ValueError: the shrunk covariance is singular.
        """
        shrunk = shrink(covariance, shrinkage)
        varies = covariance.diagonal(dim1=-2, dim2=-1).amax(-1) > 0
        shrunk.diagonal(dim1=-2, dim2=-1)[~varies] = 1
        factor, failed = torch.linalg.cholesky_ex(shrunk)
        if bool(failed.any()):
            raise ValueError(
                "the within-class covariance is singular; give more prompts than dimensions, or a shrinkage > 0"
            )
        return torch.cholesky_solve(difference[..., None], factor)[..., 0] * varies[:, None]


def shrink(
    covariance: Float[Tensor, "layer d_model d_model"], shrinkage: Float[Tensor, "layer"]
) -> Float[Tensor, "layer d_model d_model"]:
    """(1 - s) S + s tr(S)/d I."""
    shrunk = covariance * (1 - shrinkage)[:, None, None]
    level = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    shrunk.diagonal(dim1=-2, dim2=-1).add_((shrinkage * level)[:, None])
    return shrunk


def ledoit_wolf(
    covariance: Float[Tensor, "layer d_model d_model"], fourth: Float[Tensor, "layer"], count: int
) -> Float[Tensor, "layer"]:
    """The Ledoit-Wolf shrinkage in [0, 1], from the covariance and the sum of |x|^4 of its centred rows."""
    width = covariance.shape[-1]
    level = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    square = covariance.square().sum((-2, -1))
    spread = square / width - level.square()
    noise = (fourth / count - square) / (count * width)
    return torch.where(spread > 0, (noise / spread).clamp(0, 1), 0.0)
