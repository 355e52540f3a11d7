"""What a run reads: prompts that can be trained on, and their activations, checked as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import (
    ActivationStore,
    ExtractionSpec,
    HookedModel,
    LiveActivations,
    Prompt,
    Splits,
    TokenizedPrompt,
    check_labels,
    choose_labels,
    contradictions,
    group_prompts,
    split_prompts,
    store_activations,
)
from probes.classifiers.base import Batch, Fitted, gather, linear_scores
from probes.config import Aggregation, TrainConfig
from probes.poolings import is_learned, new_pooling
from probes.poolings.base import Pooling
from probes.poolings.fitting import channel_scores
from triggerlens import UserError

Source = Callable[[Sequence[int]], Iterator[Batch]]
"""Gives the activations of the asked prompts in batches, in any order: prompt indices, and their rows."""

TokenSource = Callable[..., Iterator[tuple[int, Float[Tensor, "token layer d_model"]]]]
"""Gives, prompt by prompt, the activations of every token that is read of the asked prompts: called with prompt indices, and, for
learned poolings and answers, with a slice of the layers too."""


ALL_LAYERS = slice(None)


@dataclass(frozen=True, slots=True)
class CheckedPrompts:
    """Prompts that can be trained on: labelled and divided."""

    prompts: Sequence[Prompt]
    """As they were given, in their order."""
    label: str
    """What a positive is: `defects` or `triggered`."""
    labels: Bool[np.ndarray, "prompt"]
    """Whether each prompt is a positive."""
    splits: Splits
    """Which prompts are fitted on, chosen on, calibrated on and reported on."""
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
        UserError: one class only, too few pairs, or a `split` that separates a pair or two texts of the same tokens; or labels of one
            text that contradict each other.
    """
    config = config or TrainConfig()
    label, labels = choose_labels(prompts, config.label)
    check_labels(prompts, (label,), answers=config.read != "prompt")
    checked = CheckedPrompts(prompts, label, labels, split_prompts(prompts, labels, config.fractions, config.seed))
    return checked if tokens is None else divided_by_tokens(checked, tokens, config)


def divided_by_tokens(
    checked: CheckedPrompts,
    tokens: Sequence[Sequence[int]],
    config: TrainConfig,
    read: Sequence[Sequence[int]] | None = None,
) -> CheckedPrompts:
    """The same prompts, divided anew where texts that differ are the same tokens to a model; and what contradicts itself there.

    Args:
        checked: what `check_prompts` made of them.
        tokens: token ids of each prompt.
        config: what to train.
        read: with those of its answer, where that is read: answers to one prompt stay together, and may differ in their labels.

    Raises:
        UserError: as `check_prompts`, or a `split` that separates two texts of the same tokens.
    """
    groups = group_prompts(checked.prompts, tokens)
    splits = checked.splits
    if not np.array_equal(groups, splits.groups):
        splits = split_prompts(checked.prompts, checked.labels, config.fractions, config.seed, tokens=tokens)
    note = contradictions(checked.prompts, tokens if read is None else read)
    return replace(checked, splits=splits, notes=(*checked.notes, *([note] if note else [])))


@dataclass(frozen=True, slots=True)
class Answers:
    """What a run that reads answers knows of them beside their activations."""

    ids: Sequence[Sequence[int]]
    """Token ids of each prompt's answer."""
    skipped: Sequence[int]
    """Tokens of each prompt that are read before its answer: none, the last, or all."""


@dataclass(frozen=True, slots=True)
class Bank:
    """Probes at one layer, beside the one that is trained: the controls."""

    parts: Sequence[tuple[Tensor, Tensor]]
    """Directions [probe channel d_model] and intercepts [probe], in groups of as many channels."""
    layer: int
    chosen: Int[np.ndarray, "chosen"]
    """Positions of the test prompts that they score, ascending."""


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations of prompts, and what linear probes score them."""

    source: Source
    token_source: TokenSource | None
    """Needed where the aggregation scores tokens."""
    prompts: Sequence[Prompt]
    sites: tuple[str, ...]
    aggregation: Aggregation
    lengths: Sequence[int] | None = None
    """Tokens that are read of each prompt; counted where None and they are needed."""

    def __post_init__(self) -> None:
        if self.by_token and self.token_source is None:
            raise ValueError(f"aggregation `{self.aggregation}` scores every token: give a token_source")

    @property
    def pooling(self) -> Pooling:
        """What is made of the tokens' scores."""
        return new_pooling(self.aggregation)

    @property
    def by_token(self) -> bool:
        """Whether tokens are scored, each by itself."""
        return self.aggregation == "max" or is_learned(self.aggregation)

    def tokens(
        self, rows: Int[np.ndarray, "row"], layers: slice
    ) -> Iterator[tuple[int, Float[Tensor, "token layer d_model"]]]:
        """Position in `rows` and tokens of each prompt, at some of the layers.

        Raises:
            UserError: an activation is NaN or infinite.
            ValueError: there is no token source.
        """
        if self.token_source is None:
            raise ValueError("tokens are read one by one: give a token_source")
        waiting = {index: position for position, index in enumerate(rows.tolist())}
        asked = (rows.tolist(),) if layers == ALL_LAYERS else (rows.tolist(), layers)
        for index, x in self.token_source(*asked):
            self._check_finite(x, [index] * len(x), layers.start or 0)
            yield waiting.pop(index), x
        if waiting:
            raise ValueError(f"the token source left out {len(waiting)} of {len(rows)} prompts")

    def counts(self, rows: Int[np.ndarray, "row"]) -> Int[Tensor, "row"]:
        """Tokens that are read of each prompt."""
        if self.lengths is not None:
            return torch.tensor([self.lengths[row] for row in rows.tolist()])
        counts = torch.zeros(len(rows), dtype=torch.long)
        for position, x in self.tokens(rows, slice(0, 1)):
            counts[position] = len(x)
        return counts

    def rows_at(self, rows: Int[np.ndarray, "row"], layer: int) -> Float[Tensor, "row d_model"]:
        """Activations of prompts at one layer, in the order of `rows`: of a learned pooling, the mean over tokens."""
        if not is_learned(self.aggregation):
            return gather(self.read(rows), len(rows), layer)[:, 0]
        one_layer = self.tokens(rows, slice(layer, layer + 1))
        return gather(((torch.tensor([place]), x.mean(0, keepdim=True)) for place, x in one_layer), len(rows))[:, 0]

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
            out[positions.numpy()] = self._scores(x, fitted)
        return out

    def score_beside(
        self, rows: Int[np.ndarray, "row"], fitted: Fitted, bank: Bank
    ) -> tuple[Float[np.ndarray, "row layer"], Float[np.ndarray, "chosen probe"]]:
        """Scores as `score` gives them, and those of the bank on its chosen prompts, from one reading."""
        slot = np.full(len(rows), -1)
        slot[bank.chosen] = np.arange(len(bank.chosen))
        out = np.empty((len(rows), len(fitted.coef)))
        beside = np.empty((len(bank.chosen), sum(len(heads) for heads, _ in bank.parts)), dtype=np.float32)
        for positions, x in self._visit(rows):
            out[positions.numpy()] = self._scores(x, fitted)
            slots = slot[positions.numpy()]
            wanted = slots >= 0
            if wanted.any():
                x = x[:, bank.layer] if self.by_token else x[torch.from_numpy(wanted), bank.layer]
                scores = [self._reduce(channel_scores(x, *part)) for part in bank.parts]
                beside[slots[wanted]] = np.concatenate(scores, axis=1)
        return out, beside

    def _visit(self, rows: Int[np.ndarray, "row"]) -> Iterator[Batch]:
        """Positions in `rows` and activations: of some prompts, or, where tokens are scored, of the tokens of one prompt."""
        if not self.by_token:
            yield from self.read(rows)
            return
        for position, x in self.tokens(rows, ALL_LAYERS):
            yield torch.tensor([position]), x

    def _scores(self, x: Float[Tensor, "row layer d_model"], fitted: Fitted) -> Float[np.ndarray, "prompt layer"]:
        """Scores of the prompts of one visit, at every layer."""
        if fitted.heads is None:
            return self._reduce(linear_scores(x, fitted.coef, fitted.intercept)[..., None])
        by_layer = [
            channel_scores(x[:, layer], fitted.heads[layer : layer + 1], fitted.intercept[layer : layer + 1])
            for layer in range(len(fitted.heads))
        ]
        return self._reduce(torch.cat(by_layer, dim=1))

    def _reduce(self, scores: Float[Tensor, "row score channel"]) -> Float[np.ndarray, "prompt score"]:
        """Scores of the prompts of one visit."""
        pooled = self.pooling.reduce(scores)[None] if self.by_token else scores[..., 0]
        return pooled.cpu().numpy()

    def _check_finite(self, x: Float[Tensor, "row layer d_model"], index: Sequence[int], first: int = 0) -> None:
        if bool(x.sum().isfinite()) or bool(x.isfinite().all()):  # a finite sum has finite terms, and costs no mask
            return
        row, layer = (~x.isfinite()).any(-1).nonzero()[0].tolist()
        where = self.prompts[index[row]].where or f"prompt {index[row]}"
        raise UserError(
            f"{where}: NaN or infinite activations at {self.sites[first + layer]}; "
            "check the checkpoint, or run it with --dtype float32"
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """How a run reads a model."""

    model: HookedModel
    prompts: Sequence[Prompt]
    tokenized: Sequence[TokenizedPrompt]
    """The same prompts, with their answers where those are read."""
    sites: tuple[str, ...]
    config: TrainConfig
    store: str | Path | None
    """Folder of the activation store; the default one where None."""
    keep: bool
    """Keep activations in the store; otherwise they are read from the model whenever they are needed."""
    token_budget: int | None

    def source(self) -> ActivationStore | LiveActivations:
        """What a probe is fitted to: one row a prompt, or, of a learned pooling, one a token."""
        spec = self._spec(new_pooling(self.config.aggregation).read)
        prompts = self.prompts if spec.position.startswith("span:") else self.tokenized  # tokens alone name no span
        if not self.keep:
            return LiveActivations(self.model, prompts, spec, self.token_budget)
        return store_activations(
            self.model, prompts, spec, root=self.store, token_budget=self.token_budget, total=len(prompts)
        )

    def tokens(self, source: ActivationStore | LiveActivations) -> ActivationStore | LiveActivations:
        """Every token that is read: the source's own rows where it has them."""
        if is_learned(self.config.aggregation):
            return source
        return LiveActivations(self.model, self.tokenized, self._spec("every"), self.token_budget)

    def lengths(self) -> list[int]:
        """Tokens that are read of each prompt."""
        spec = self._spec("every")
        return [len(spec.tokens_of(prompt)) for prompt in self.tokenized]

    def answers(self) -> Answers | None:
        """None where no answer is read."""
        if self.config.read == "prompt":
            return None
        starts = [self._spec("every").tokens_of(prompt).start for prompt in self.tokenized]
        skipped = [(prompt.answer or 0) - start for prompt, start in zip(self.tokenized, starts, strict=True)]
        return Answers([prompt.answer_ids for prompt in self.tokenized], skipped)

    def _spec(self, position: str) -> ExtractionSpec:
        return ExtractionSpec(self.sites, position, read=self.config.read)
