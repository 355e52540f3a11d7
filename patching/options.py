"""What the options of patching can be. Needs no torch, so that a command line can be read without it."""

from __future__ import annotations

from typing import Literal, get_args

Direction = Literal["denoising", "noising"]
"""`denoising` patches clean activations into the triggered run; `noising` triggered ones into the clean run."""
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
"""Both of them."""

SiteKind = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_out", "q", "k", "v", "pattern"]
"""What can be patched: every kind of site that `hooked` has."""

Method = Literal["exact", "attribution"]
"""`exact` runs each cell; `attribution` estimates all cells from gradients."""

EstimateKind = Literal["plain", "softmax", "integrated"]
"""How attribution patching estimates; see `patching.engine.attribution`."""

MetricName = Literal["logit-diff", "kl", "log-prob"]
"""What a run is judged by; see `patching.metric`."""

Inserted = Literal["neighbour", "skip"]
"""What a token that only the patched run has is patched with: the activation of the source token before it, or nothing."""

Role = Literal["before", "trigger", "after"]
"""Of a token: before the first one that differs, one that differs, any other."""
ROLES: tuple[Role, ...] = get_args(Role)
"""All of them, in the order of a prompt."""
