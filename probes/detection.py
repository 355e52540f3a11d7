"""How often a probe fires at its frozen threshold."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from triggerlens import Estimate, rate


def firing_rate(scores: Float[np.ndarray, "prompt"], threshold: float) -> Estimate:
    """Share of prompts that score strictly above the threshold."""
    return rate(int((scores > threshold).sum()), len(scores))
