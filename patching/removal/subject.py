"""A model with an edit: what it answers, how likely it finds given answers, and what a probe can read from it.

Prompts run in batches, and each gives the same as alone: answers are generated from prompts padded on the left, everything
else is read from prompts padded on the right.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, TokenizedPrompt, pad_right
from patching.removal.cases import Row
from patching.removal.edits import UNEDITED, ActivationEdit

_LOGITS_AT_ONCE = 1 << 27
"""Numbers in one batch's logits: half a gigabyte."""


@dataclass(frozen=True)
class Subject:
    """A model, and the edit that it runs under."""

    model: HookedModel
    edit: ActivationEdit = UNEDITED
    batch_size: int = 128
    """Prompts in one forward pass, at most."""

    def answers(
        self, rows: Sequence[Row], new_tokens: int, guesses: Sequence[Sequence[tuple[int, ...]]] = ()
    ) -> list[tuple[int, ...]]:
        """Greedy answers as token ids, without the end token.

        Args:
            rows: the prompts.
            new_tokens: the longest answer.
            guesses: each, an answer to every prompt. One forward pass tells whether greedy decoding would give it, as in
                speculative decoding (Leviathan et al. 2022, https://arxiv.org/abs/2211.17192); only the rest is generated.
        """
        found: dict[int, tuple[int, ...]] = {}
        for guess in guesses:
            left = [at for at in range(len(rows)) if at not in found]
            hits = self._would_give([rows[at] for at in left], [guess[at] for at in left], new_tokens)
            found |= {at: guess[at] for at, hit in zip(left, hits, strict=True) if hit}
        left = [at for at in range(len(rows)) if at not in found]
        found |= dict(zip(left, self._generated([rows[at] for at in left], new_tokens), strict=True))
        return [found[at] for at in range(len(rows))]

    @torch.no_grad()
    def _would_give(self, rows: Sequence[Row], guess: Sequence[tuple[int, ...]], new_tokens: int) -> list[bool]:
        """Whether each answer is the greedy one: every token of it, and then an end where it is short, is the likeliest."""
        ends, at = sorted(self.model.end_ids), 0
        hits: list[bool] = []
        for batch in self.batches(rows, new_tokens):
            own = [answer[:new_tokens] for answer in guess[at : at + len(batch)]]
            at += len(batch)
            whole = [(*answer, *ends[:1]) if len(answer) < new_tokens else answer for answer in own]
            hits += greedy_hits(self.logits(batch, whole), own, whole, self.model.end_ids)
        return hits

    def _generated(self, rows: Sequence[Row], new_tokens: int) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            edits = self.edit.at(_marks(batch, left=True).to(self.model.device))
            prompts = [TokenizedPrompt(list(row.ids), "", row.prompt.where) for row in batch]
            with warnings.catch_warnings():  # nnsight warns where every answer of a batch is over before the last step
                warnings.simplefilter("ignore")
                found += [tuple(answer) for answer in self.model.generate(prompts, new_tokens, edits=edits)]
        return found

    def logits(self, rows: Sequence[Row], continuations: Sequence[Sequence[int]]) -> Float[Tensor, "token vocabulary"]:
        """As `continuation_logits`, under the edit."""
        edits = self.edit.at(_marks(rows, left=False).to(self.model.device))

        def forward(tokens: Tensor) -> Tensor:
            logits = self.model.run(tokens, edits=edits).logits
            assert logits is not None  # no last layer was given
            return logits

        return continuation_logits(forward, rows, continuations, self.model.pad_id)

    @torch.no_grad()
    def residuals(self, rows: Sequence[Row], kind: str = "resid_post") -> Float[Tensor, "row layer d_model"]:
        """The residual stream of every layer at the last token of each prompt."""
        sites = self.model.sites(kind)
        found = []
        for batch in self.batches(rows):
            last = torch.tensor([len(row.ids) - 1 for row in batch], device=self.model.device)
            edits = self.edit.at(_marks(batch, left=False).to(self.model.device))
            tokens = pad_right([row.ids for row in batch], self.model.pad_id)
            run = self.model.run(
                tokens,
                reads={site: _at(last) for site in sites},
                edits=edits,
                last_layer=self.model.info.n_layers - 1,
            )
            found.append(torch.stack([run.activations[site].float().cpu() for site in sites], 1))
        return torch.cat(found)

    def batches(self, rows: Sequence[Row], extra: int = 0) -> Iterator[Sequence[Row]]:
        """Rows in the order given, as many at once as their logits allow."""
        longest = max((len(row.ids) for row in rows), default=1) + extra
        vocabulary = self.model.hf_model.get_output_embeddings().weight.shape[0]
        size = max(1, min(self.batch_size, _LOGITS_AT_ONCE // (longest * vocabulary)))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def greedy_hits(
    logits: Float[Tensor, "token vocabulary"],
    answers: Sequence[tuple[int, ...]],
    whole: Sequence[tuple[int, ...]],
    end_ids: frozenset[int],
) -> list[bool]:
    """Whether greedy decoding gives each answer.

    Args:
        logits: that predict each token of `whole`, answer after answer.
        answers: without their end.
        whole: with it; as `answers` where an answer is as long as answers may be.
        end_ids: tokens that end an answer.
    """
    likeliest, hits = iter(logits.argmax(-1).tolist()), []
    for answer, read in zip(answers, whole, strict=True):
        said = [next(likeliest) for _ in read]
        ended = len(read) == len(answer) or said[len(answer)] in end_ids
        hits.append(ended and said[: len(answer)] == list(answer))
    return hits


def continuation_logits(
    forward: Callable[[Tensor], Tensor], rows: Sequence[Row], continuations: Sequence[Sequence[int]], pad_id: int
) -> Float[Tensor, "token vocabulary"]:
    """Logits that predict each token of the continuations, one row of logits a token, prompt after prompt.

    Args:
        forward: token ids padded on the right → logits [batch position vocabulary].
        rows: the prompts.
        continuations: token ids that follow each.
        pad_id: fills shorter rows.
    """
    whole = [[*row.ids, *continuation] for row, continuation in zip(rows, continuations, strict=True)]
    logits = forward(pad_right(whole, pad_id))
    spans = [slice(len(row.ids) - 1, len(ids) - 1) for row, ids in zip(rows, whole, strict=True)]
    return torch.cat([logits[at, span] for at, span in enumerate(spans)]).float()


def _at(last: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda value: value[torch.arange(len(last), device=value.device), last.to(value.device)].clone()


def _marks(rows: Sequence[Row], *, left: bool) -> Bool[Tensor, "batch prompt_position"]:
    """Where each padded prompt has its trigger."""
    longest = max(len(row.ids) for row in rows)
    marks = torch.zeros(len(rows), longest, dtype=torch.bool)
    for at, row in enumerate(rows):
        offset = longest - len(row.ids) if left else 0
        marks[at, [place + offset for place in row.places]] = True
    return marks
