"""Probes of random directions on the tiny models, as no training gives them."""

import torch
from tiny_models import LAYERS, WIDTH

from probes import LinearProbe
from probes.poolings import new_pooling


def made(pooling="mean", read="answer", threshold=1e9, **options):
    """A probe at the middle layer."""
    generator = torch.Generator().manual_seed(1)
    channels = new_pooling(pooling).channels
    heads = torch.randn(LAYERS, channels, WIDTH, generator=generator, dtype=torch.float64)
    facts = {
        "coef": heads[:, 0],
        "intercept": torch.arange(LAYERS).double(),
        "thresholds": torch.full((LAYERS,), threshold, dtype=torch.float64),
        "sites": tuple(f"resid_post.{layer}" for layer in range(LAYERS)),
        "best": 1,
        "aggregation": pooling,
        "label": "defects",
        "method": "logistic",
        "read": read,
        "heads": heads if channels > 1 else None,
        "watch_threshold": None if read == "prompt" else threshold,
    }
    return LinearProbe(**(facts | options))
