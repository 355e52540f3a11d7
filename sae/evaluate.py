"""How good an autoencoder is, on activations that it was not trained on.

1. L0 and the fraction of variance unexplained, over rows that are streamed (`sae.reconstruction`).
2. Cross-entropy of the next token with the reconstruction in the activation's place, between that of the model as it is and
   that with the activation set to zero.
3. Latents that never fire, and how far decoder rows are from their nearest neighbour.

Targeted probe perturbation and spurious correlation removal are left out: their scores were found to be unreliable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import Edit, HookedModel, Prompt, TokenizedPrompt, pad_right, shared_runs
from sae.architectures.core import SparseAutoencoder
from triggerlens import UserError

_ROWS = 4096
_TOKENS = 4096


@dataclass(frozen=True)
class CrossEntropy:
    """Next-token cross-entropy in nats, the mean over all predicted tokens."""

    tokens: int
    """How many were predicted."""
    model: float
    """Of the model as it is."""
    spliced: float
    """With the reconstruction in the activation's place."""
    zeroed: float
    """With zeros in the activation's place."""

    @property
    def recovered(self) -> float:
        """1: as good as the model; 0: no better than zeros. Undefined, NaN, where zeros do no harm."""
        harm = self.zeroed - self.model
        return (self.zeroed - self.spliced) / harm if harm > 0 else float("nan")


def evaluate_cross_entropy(
    model: HookedModel,
    sae: SparseAutoencoder,
    prompts: Sequence[Prompt | str],
    site: str,
    *,
    answer_tokens: int = 0,
    skip_first: int = 1,
    leave_above: float | None = None,
) -> CrossEntropy:
    """Splice the autoencoder into the model.

    Args:
        model: which model.
        sae: of its activations at `site`.
        prompts: texts to predict.
        site: where.
        answer_tokens: where above 0, the model's own greedy answers of so many tokens are predicted, in place of the
            prompts: a model that was only ever trained to answer predicts a prompt no better with the site than without.
        skip_first: tokens at the start of a prompt on which the autoencoder is not trained; they are left alone.
        leave_above: where given, tokens whose activation has a larger norm are left alone too: what the model loses by zeros
            there, at its attention sinks, is not what the site says of the text.

    Raises:
        UserError: there is no token to predict.
    """
    predicted = predicted_texts(model, prompts, answer_tokens)
    if not predicted:
        raise UserError("no held-out prompt has a token to predict")
    return spliced_cross_entropy(model, sae, predicted, site, skip_first=skip_first, leave_above=leave_above)


@dataclass(frozen=True)
class Predicted:
    """Tokens of a text, of which those from `start` on, one at least, are predicted."""

    ids: list[int]
    start: int


def predicted_texts(
    model: HookedModel, prompts: Sequence[Prompt | str], answer_tokens: int = 0
) -> tuple[Predicted, ...]:
    """What `evaluate_cross_entropy` predicts, the shortest first: the same for every autoencoder, so that answers are written once.

    An answer is as long as the context leaves room for; a prompt that leaves none, and what has no token to predict, is left out.
    """
    ids = sorted((prompt.ids for prompt in model.tokenize(prompts)), key=len)
    every = _answered(model, ids, answer_tokens) if answer_tokens else (Predicted(own, 1) for own in ids)
    return tuple(sorted((row for row in every if len(row.ids) > row.start), key=lambda row: len(row.ids)))


def _answered(model: HookedModel, ids: Sequence[list[int]], answer_tokens: int) -> Iterator[Predicted]:
    """Prompts, the shortest first, with the model's greedy answers."""
    for room, alike in groupby(ids, key=lambda own: min(answer_tokens, model.info.context - len(own))):
        if room <= 0:
            return
        rows = list(alike)
        for run in _batches(model, [len(own) for own in rows], room):
            answers = model.generate([TokenizedPrompt(own, "") for own in rows[run]], room)
            yield from (Predicted([*own, *answer], len(own)) for own, answer in zip(rows[run], answers, strict=True))


def _batches(model: HookedModel, lengths: Sequence[int], extra: int = 0) -> Iterator[slice]:
    """Texts of ascending length that are run together, within a budget of tokens; each may have `extra` more."""
    for run in shared_runs(model, lengths, extra):
        start = run.start
        for end in range(run.start + 1, run.stop + 1):
            if end == run.stop or (end + 1 - start) * (lengths[end] + extra) > _TOKENS:
                yield slice(start, end)
                start = end


def spliced_cross_entropy(
    model: HookedModel,
    sae: SparseAutoencoder,
    predicted: Sequence[Predicted],
    site: str,
    *,
    skip_first: int = 1,
    leave_above: float | None = None,
) -> CrossEntropy:
    """As `evaluate_cross_entropy`, of one `predicted_texts` or more."""

    def kept(edit: Edit) -> Edit:
        def edited(value: Tensor) -> Tensor:
            new = torch.cat([value[:, :skip_first], edit(value[:, skip_first:])], dim=1)
            return new if leave_above is None else torch.where(_longer(value, leave_above), value, new)

        return edited

    def splice(value: Tensor) -> Tensor:
        return sae(value.to(sae.W_dec.device, torch.float32)).to(value)

    edits: list[dict[str, Edit]] = [{}, {site: kept(splice)}, {site: kept(torch.zeros_like)}]
    sums = torch.zeros(3, dtype=torch.float64)
    for run in _batches(model, [len(row.ids) for row in predicted]):
        parts = [_summed_cross_entropy(model, predicted[run], edit) for edit in edits]
        sums += torch.tensor(parts, dtype=torch.float64)
    tokens = sum(len(row.ids) - row.start for row in predicted)
    return CrossEntropy(tokens, *(sums / tokens).tolist())


def _longer(value: Float[Tensor, "batch position d"], norm: float) -> Tensor:
    return value.double().norm(dim=-1, keepdim=True) > norm


@torch.no_grad()
def _summed_cross_entropy(model: HookedModel, rows: Sequence[Predicted], edits: dict[str, Edit]) -> float:
    tokens = pad_right([row.ids for row in rows], model.pad_id).to(model.device)
    logits = model.run(tokens, edits=edits).logits
    assert logits is not None
    positions = torch.arange(1, tokens.shape[1])[None]
    starts, ends = (
        torch.tensor(values)[:, None] for values in zip(*((row.start, len(row.ids)) for row in rows), strict=True)
    )
    inside = ((positions >= starts) & (positions < ends)).to(tokens.device)
    losses = torch.nn.functional.cross_entropy(logits[:, :-1][inside].float(), tokens[:, 1:][inside], reduction="sum")
    return float(losses)


@torch.no_grad()
def decoder_cosines(sae: SparseAutoencoder) -> Float[Tensor, "d_sae"]:
    """Cosine of each decoder row with its nearest other one: near 1 means that two latents share a direction."""
    rows = torch.nn.functional.normalize(sae.W_dec, dim=1)
    nearest = []
    for start in range(0, len(rows), _ROWS):
        cosines = rows[start : start + _ROWS] @ rows.T
        cosines.diagonal(start).fill_(-1)
        nearest.append(cosines.amax(1))
    return torch.cat(nearest)
