"""What a patched run is judged by, read from the logits of its last positions; no labels are needed.

1. Both runs of a pair are continued greedily, to the first token where they part (or along two given answers).
2. The shared part of the continuation is appended to both prompts, so that the next token is where they differ.
3. The metric there: the logit of the clean run's token less that of the triggered run's (recommended over probabilities
   by Zhang and Nanda 2023, https://arxiv.org/abs/2309.16042); or the divergence from the clean run's distribution; or
   the log-probability of a given string.
4. Normalised: 0 is the corrupted (triggered) run, 1 the clean one. A metric that is the same in both is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, TokenizedPrompt
from patching.alignment import common_ends
from patching.options import MetricName
from triggerlens import UserError

_FLAT = 1e-5
"""A difference between the two runs below this share of the metric's own size is rounding."""


@dataclass(frozen=True)
class LogitDifference:
    """Logit of the clean run's next token less that of the triggered run's."""

    clean: int
    """Token id."""
    defect: int
    """Token id."""
    name: MetricName = "logit-diff"
    """As `--metric` calls it."""
    tail: int = 1
    """How many of the last positions' logits are needed."""

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """Token ids whose logits are needed, in this order; None means the whole vocabulary."""
        return (self.clean, self.defect)

    def __call__(self, logits: Float[Tensor, "cell tail token"]) -> Float[Tensor, "cell"]:
        return (logits[:, -1, 0] - logits[:, -1, 1]).double()


@dataclass(frozen=True)
class KLDivergence:
    """The negative Kullback–Leibler divergence of the next token's distribution from the clean run's, in nats."""

    reference: Float[Tensor, "vocabulary"]
    """Logits of the clean run."""
    name: MetricName = "kl"
    """As `--metric` calls it."""
    tail: int = 1
    """How many of the last positions' logits are needed."""

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """Token ids whose logits are needed; None: the whole vocabulary, since it is normalised over it."""
        return None

    def __call__(self, logits: Float[Tensor, "cell tail vocabulary"]) -> Float[Tensor, "cell"]:
        clean = self.reference.to(logits.device).double().log_softmax(-1)
        return -(clean.exp() * (clean - logits[:, -1].double().log_softmax(-1))).sum(-1)


@dataclass(frozen=True)
class LogProbability:
    """The log-probability of a string that follows the prompt, in nats."""

    string: tuple[int, ...]
    """Token ids; all but the last one are appended to both prompts."""
    name: MetricName = "log-prob"
    """As `--metric` calls it."""

    @property
    def tail(self) -> int:
        """How many of the last positions' logits are needed: one for each token of the string."""
        return len(self.string)

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """Token ids whose logits are needed; None: the whole vocabulary, since it is normalised over it."""
        return None

    def __call__(self, logits: Float[Tensor, "cell tail vocabulary"]) -> Float[Tensor, "cell"]:
        wanted = torch.tensor(self.string, device=logits.device).expand(len(logits), -1)
        return logits.double().log_softmax(-1).gather(-1, wanted[..., None]).sum((1, 2))


Metric = LogitDifference | KLDivergence | LogProbability


@dataclass(frozen=True)
class Readout:
    """Where and how a pair is read."""

    continuation: tuple[int, ...]
    """Token ids appended to both prompts."""
    clean_token: int | None
    """Token id that the clean run goes on with there; None for a given string."""
    defect_token: int | None
    """Token id that the triggered run goes on with there; None for a given string."""
    metric: Metric
    """What is read there."""


def normalised(
    value: Float[Tensor, "..."], corrupted: float, clean: float, what: str = "the pair"
) -> Float[Tensor, "..."]:
    """The metric on the scale where 0 is the corrupted run and 1 the clean one.

    Raises:
        UserError: the metric is flat (the same in both runs), or one of the runs gives no finite value.
    """
    if not (math.isfinite(clean) and math.isfinite(corrupted)):
        raise UserError(f"{what}: the metric is {clean:g} on the clean run and {corrupted:g} on the triggered one")
    if is_flat(clean, corrupted):
        raise UserError(
            f"{what}: the metric is flat: {clean:g} on the clean run and {corrupted:g} on the triggered one, so nothing "
            "can be restored; choose another pair or another --metric"
        )
    return (value - corrupted) / (clean - corrupted)


def is_flat(clean: float, corrupted: float) -> bool:
    """Whether the metric of the two runs is the same but for rounding, so that nothing can be measured between them."""
    return abs(clean - corrupted) <= _FLAT * max(1.0, abs(clean), abs(corrupted))


def first_parting(
    clean: Sequence[int], defect: Sequence[int], end: int | None, what: str = "the pair"
) -> tuple[tuple[int, ...], int, int]:
    """The shared beginning of two continuations and the token with which each goes on; `end` follows the one that is over.

    Raises:
        UserError: they never part.
    """
    shared = common_ends(clean, defect)[0]
    following = [row[shared] if shared < len(row) else end for row in (clean, defect)]
    if following[0] == following[1] or None in following:
        raise UserError(
            f"{what}: the clean and the triggered continuation never part within {max(len(clean), len(defect))} tokens, so "
            "there is no behaviour to localise; choose another pair, more --max-new-tokens, or give answer_clean and answer_defect"
        )
    return tuple(clean[:shared]), int(following[0] or 0), int(following[1] or 0)


def readout(
    model: HookedModel,
    clean: TokenizedPrompt,
    triggered: TokenizedPrompt,
    kind: MetricName = "logit-diff",
    *,
    answers: tuple[str, str] | None = None,
    string: str | None = None,
    new_tokens: int = 32,
    what: str = "the pair",
) -> Readout:
    """Find where a pair parts, and the metric there.

    Args:
        model: the model that continues the prompts.
        clean: the untriggered prompt.
        triggered: its triggered twin.
        kind: which metric.
        answers: the clean and the defecting answer, instead of the model's own greedy ones.
        string: for `log-prob`, the string whose probability is measured.
        new_tokens: how far the greedy continuations are searched for the token where they part.
        what: names the pair in error messages.

    Raises:
        UserError: the continuations never part; `log-prob` without a string; an answer that gives no token.
    """
    if kind == "log-prob":
        if not string:
            raise UserError("--metric log-prob needs the string whose probability is measured: --string")
        ids = _encode(model.tokenizer, string)
        return Readout(ids[:-1], None, None, LogProbability(ids))
    if answers is not None:
        continuations = [list(_encode(model.tokenizer, answer)) for answer in answers]
    else:
        room = model.info.context - max(len(clean.ids), len(triggered.ids))
        continuations = model.generate([clean, triggered], max(1, min(new_tokens, room)))
    shared, clean_token, defect_token = first_parting(continuations[0], continuations[1], model.turn_end, what)
    if kind == "logit-diff":
        return Readout(shared, clean_token, defect_token, LogitDifference(clean_token, defect_token))
    if kind == "kl":
        reference = last_logits(model, [*clean.ids, *shared], 1)[0]
        return Readout(shared, clean_token, defect_token, KLDivergence(reference))
    raise UserError(f"unknown metric {kind!r}; choose logit-diff, kl or log-prob")


@torch.no_grad()
def last_logits(model: HookedModel, ids: Sequence[int], tail: int) -> Float[Tensor, "tail vocabulary"]:
    """Logits at the last `tail` positions of an unpatched run."""
    logits = model.run(torch.tensor([list(ids)])).logits
    assert logits is not None  # no last layer was given
    return logits[0, -tail:].float()


def chosen(logits: Float[Tensor, "*batch vocabulary"], tokens: tuple[int, ...] | None) -> Float[Tensor, "*batch token"]:
    """The logits of the tokens that a metric needs."""
    return logits if tokens is None else logits[..., list(tokens)]


def _encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    ids = tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if not ids:
        raise UserError(f"the answer {text!r} has no token")
    return ids
