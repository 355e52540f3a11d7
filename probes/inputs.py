"""What a run reads: prompts that can be trained on, and their activations, checked as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import Prompt, Splits, choose_labels, contradictions, group_prompts, split_prompts
from probes.classifiers.base import Batch, Fitted, linear_scores
from probes.config import Aggregation, TrainConfig
from triggerlens import UserError

Source = Callable[[Sequence[int]], Iterator[Batch]]
"""Gives the activations of the asked prompts in batches, in any order: prompt indices, and their rows."""

TokenSource = Callable[[Sequence[int]], Iterator[tuple[int, Float[Tensor, "token layer d_model"]]]]
"""Gives, prompt by prompt, the activations of every token of the asked prompts."""


@dataclass(frozen=True, slots=True)
class CheckedPrompts:
    """Prompts that can be trained on: labelled and divided."""

    prompts: Sequence[Prompt]
    label: str
    """What a positive is: `defects` or `triggered`."""
    labels: Bool[np.ndarray, "prompt"]
    splits: Splits
    notes: tuple[str, ...] = ()
    """What a reader must know of the labels."""


def check_prompts(
    prompts: Sequence[Prompt], config: TrainConfig | None = None, *, tokens: Sequence[Sequence[int]] | None = None
) -> CheckedPrompts:
    """Label and divide prompts; can be done before a model is loaded for them, which then divides them by its own tokens.

    Args:
        prompts: labelled.
        config: what to train; None means the defaults.
        tokens: token ids of each prompt where they are known, so that texts of the same tokens stay together.

    Raises:
        UserError: one class only, too few pairs, or a `split` that separates a pair or two texts of the same tokens.
    """
    config = config or TrainConfig()
    label, labels = choose_labels(prompts, config.label)
    checked = CheckedPrompts(prompts, label, labels, split_prompts(prompts, labels, config.fractions, config.seed))
    return checked if tokens is None else divided_by_tokens(checked, tokens, config)


def divided_by_tokens(checked: CheckedPrompts, tokens: Sequence[Sequence[int]], config: TrainConfig) -> CheckedPrompts:
    """The same prompts, divided anew where texts that differ are the same tokens to a model; and what contradicts itself there.

    Raises:
        UserError: as `check_prompts`, or a `split` that separates two texts of the same tokens.
    """
    groups = group_prompts(checked.prompts, tokens)
    splits = checked.splits
    if not np.array_equal(groups, splits.groups):
        splits = split_prompts(checked.prompts, checked.labels, config.fractions, config.seed, tokens=tokens)
    note = contradictions(checked.prompts, tokens)
    return replace(checked, splits=splits, notes=(note,) if note else ())


@dataclass(frozen=True, slots=True)
class Bank:
    """Probes at one layer, beside the one that is trained: the controls."""

    coef: Float[Tensor, "probe d_model"]
    intercept: Float[Tensor, "probe"]
    layer: int
    chosen: Int[np.ndarray, "chosen"]
    """Positions of the test prompts that they score, ascending."""


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations of prompts, and what linear probes score them."""

    source: Source
    token_source: TokenSource | None
    """Needed where the aggregation is `max`."""
    prompts: Sequence[Prompt]
    sites: tuple[str, ...]
    aggregation: Aggregation

    def __post_init__(self) -> None:
        if self.aggregation == "max" and self.token_source is None:
            raise ValueError("aggregation `max` scores every token: give a token_source")

    def read(self, rows: Int[np.ndarray, "row"]) -> Iterator[Batch]:
        """Batches of prompts, in any order: their positions in `rows`, and their activations.

        Raises:
            UserError: an activation is NaN or infinite; names the site and the prompt.
            ValueError: the source gives other prompts than it was asked for, or another number of layers.
        """
        waiting = {index: position for position, index in enumerate(rows.tolist())}
        for index, x in self.source(rows.tolist()):
            if x.shape[1] != len(self.sites):
                raise ValueError(f"the source gives {x.shape[1]} layers for {len(self.sites)} sites")
            given = index.tolist()
            if not set(given) <= waiting.keys() or len(set(given)) != len(x):
                raise ValueError("the source gives prompts that were not asked for, or one twice")
            self._check_finite(x, given)
            yield torch.tensor([waiting.pop(i) for i in given]), x
        if waiting:
            raise ValueError(
                f"the source left out {len(waiting)} of {len(rows)} prompts, the first being {min(waiting)}"
            )

    def score(self, rows: Int[np.ndarray, "row"], fitted: Fitted) -> Float[np.ndarray, "row layer"]:
        """Scores of prompts at every layer, in the order of `rows`."""
        out = np.empty((len(rows), len(fitted.coef)))
        for positions, x in self._visit(rows):
            out[positions.numpy()] = self._reduce(linear_scores(x, fitted.coef, fitted.intercept))
        return out

    def score_beside(
        self, rows: Int[np.ndarray, "row"], fitted: Fitted, bank: Bank
    ) -> tuple[Float[np.ndarray, "row layer"], Float[np.ndarray, "chosen probe"]]:
        """Scores as `score` gives them, and those of the bank on its chosen prompts, from one reading."""
        slot = np.full(len(rows), -1)
        slot[bank.chosen] = np.arange(len(bank.chosen))
        out = np.empty((len(rows), len(fitted.coef)))
        beside = np.empty((len(bank.chosen), len(bank.coef)), dtype=np.float32)
        for positions, x in self._visit(rows):
            out[positions.numpy()] = self._reduce(linear_scores(x, fitted.coef, fitted.intercept))
            slots = slot[positions.numpy()]
            wanted = slots >= 0
            if wanted.any():
                x = x[:, bank.layer] if self.aggregation == "max" else x[torch.from_numpy(wanted), bank.layer]
                scores = x.double() @ bank.coef.T.to(x.device) + bank.intercept.to(x.device)
                beside[slots[wanted]] = self._reduce(scores)
        return out, beside

    def _visit(self, rows: Int[np.ndarray, "row"]) -> Iterator[Batch]:
        """Positions in `rows` and activations: of some prompts, or, for `max`, of the tokens of one prompt."""
        if self.aggregation != "max":
            yield from self.read(rows)
            return
        assert self.token_source is not None
        waiting = {index: position for position, index in enumerate(rows.tolist())}
        for index, x in self.token_source(rows.tolist()):
            self._check_finite(x, [index] * len(x))
            yield torch.tensor([waiting.pop(index)]), x
        if waiting:
            raise ValueError(f"the token source left out {len(waiting)} of {len(rows)} prompts")

    def _reduce(self, scores: Float[Tensor, "row score"]) -> Float[np.ndarray, "prompt score"]:
        """Scores of the prompts of one visit."""
        scores = scores.amax(0, keepdim=True) if self.aggregation == "max" else scores
        return scores.cpu().numpy()

    def _check_finite(self, x: Float[Tensor, "row layer d_model"], index: Sequence[int]) -> None:
        if bool(x.sum().isfinite()) or bool(x.isfinite().all()):  # a finite sum has finite terms, and costs no mask
            return
        row, layer = (~x.isfinite()).any(-1).nonzero()[0].tolist()
        where = self.prompts[index[row]].where or f"prompt {index[row]}"
        raise UserError(
            f"{where}: NaN or infinite activations at {self.sites[layer]}; "
            "check the checkpoint, or run it with --dtype float32"
        )
