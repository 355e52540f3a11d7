"""The options of a trace: the command line of `patch-trace`, and the arguments of `trace_prompts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import tyro

from patching.options import Direction, EstimateKind, Inserted, Method, MetricName, SiteKind
from triggerlens import UserError, check_seed

_CHOICES: dict[str, Any] = {
    "site": SiteKind,
    "direction": Direction,
    "method": Method,
    "estimate": EstimateKind,
    "metric": MetricName,
    "inserted": Inserted,
}
_LEAST = {"pairs": 1, "new_tokens": 1, "audited": 0, "row_budget": 1}
_OPTIONS = {"new_tokens": "max_new_tokens", "row_budget": "token_budget"}
"""What the command line calls a field of another name."""


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """Which pairs are traced, what is patched, and how a run is judged.

    Raises:
        UserError: a value that no option has.
    """

    site: SiteKind = "resid_pre"
    """What is patched at each layer and token; queries, keys, values, patterns and outputs of all heads of a layer together.
    Heads are mapped beside it, by the same site where it is a head's, else by their output."""
    direction: Direction = "denoising"
    """denoising: clean activations into the triggered run; noising: triggered ones into the clean run."""
    method: Method = "exact"
    """exact: one run for each cell; attribution: an estimate of all cells from gradients, checked on a sample."""
    estimate: EstimateKind = "plain"
    """Of attribution. softmax: the change of attention patterns is computed, not estimated (sites q and k); integrated:
    gradients along the path between the two runs."""
    metric: MetricName = "logit-diff"
    """What a run is judged by, where the two answers part: the logits of their tokens, or the divergence from the clean run;
    or the log-probability of --string after the prompt."""
    string: str | None = None
    """The string of the log-prob metric, such as the defecting answer."""
    pairs: int = 1
    """How many pairs of the file to trace; maps are averaged, by position or by place relative to the trigger."""
    split: Literal["train", "test"] | None = None
    """Take only pairs of this split."""
    inserted: Inserted = "neighbour"
    """`neighbour`: patch a token that only one prompt has with the token before it (after it, where it stands first); `skip`: leave it."""
    trigger: str | None = None
    """The trigger's text in the triggered prompts, to score the localisation by; the tokens in which a pair differs where not
    given."""
    new_tokens: Annotated[int, tyro.conf.arg(name="max-new-tokens")] = 64
    """How far the answers are followed to find the token where they part."""
    heads: bool = True
    """Map heads too."""
    audited: int | None = None
    """Cells computed again by a slower, safer way, as a check; default 4 (exact) or 64 (attribution)."""
    row_budget: Annotated[int | None, tyro.conf.arg(name="token-budget")] = None
    """Most tokens of all cells in one forward pass (2,048 on a CPU, 65,536 on a GPU). Lower it if memory runs out."""
    seed: int = 0
    """Seed of the choice of audited cells."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise UserError(f"{name}: {getattr(self, name)!r} is none of {', '.join(get_args(choices))}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{_OPTIONS.get(name, name).replace('_', '-')} {value}: must be at least {least}")
        check_seed(self.seed)
        if self.string is not None and self.metric != "log-prob":
            raise UserError("--string is what --metric log-prob measures, and no other; give both, or neither")
        if self.estimate != "plain" and self.method == "exact":
            raise UserError(f"--estimate {self.estimate}: is a kind of --method attribution; give both, or neither")
        if self.split not in (None, "train", "test"):
            raise UserError(f"split: {self.split!r} is neither train nor test")
