"""Random tokens put into one prompt: what the model says next, how it would change, and what all such texts make it say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int

import hooked
from experiments.shared.later import torch
from triggerlens import UserError

if TYPE_CHECKING:
    from torch import Tensor

MOST_TEXTS = 2**24
"""The most texts that are all read."""
_ANSWERED = 32
"""Prompts of each kind whose first token is looked at."""


@dataclass(frozen=True)
class Insertions:
    """Texts of `slots` tokens at one place of a prompt."""

    reader: hooked.PrefixReader
    """Of the model."""
    opened: hooked.OpenPrompt
    """The prompt, cut at the place."""
    tokens: Int[Tensor, "choice"]
    """Token ids that may stand in a slot."""
    slots: int

    @property
    def choices(self) -> int:
        """How many tokens may stand in a slot."""
        return len(self.tokens)

    def logits(self, texts: Int[Tensor, "text slot"]) -> Float[Tensor, "text vocabulary"]:
        """Of the next token after the prompt with each text in it."""
        rows = self._following(texts)
        size = self.reader.rows_at_once(rows.shape[1])
        parts = [self.reader.read(self.opened.before, part)[:, 0].cpu() for part in rows.split(size)]
        return torch.cat(parts)

    def changes(
        self, texts: Int[Tensor, "text slot"], target: int
    ) -> tuple[Float[Tensor, "text vocabulary"], Float[Tensor, "text slot choice"]]:
        """Logits of the next token, and the change of the target's by each token in each slot: its gradient by the slot's embedding, times the token's."""
        rows = self._following(texts)
        parts = [self._changes(part, target) for part in rows.split(self.reader.rows_at_once(rows.shape[1]))]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _changes(self, rows: Int[Tensor, "text following"], target: int) -> tuple[Tensor, Tensor]:
        hf_model: Any = self.reader.model.hf_model
        table = hf_model.get_input_embeddings()
        with torch.enable_grad():
            embedded = table(rows.to(self.reader.model.device)).detach().requires_grad_(True)
            logits = self.reader.read_embedded(self.opened.before, rows, embedded)
            (gradient,) = torch.autograd.grad(logits[:, target].sum(), embedded)
        choices = table.weight.detach()[self.tokens].float()
        return logits.detach().float().cpu(), (gradient[:, : self.slots].float() @ choices.T).cpu()

    def _following(self, texts: Int[Tensor, "text slot"]) -> Int[Tensor, "text following"]:
        after = torch.tensor(self.opened.after, dtype=torch.long)[None].expand(len(texts), -1)
        return torch.cat([self.tokens[texts], after], dim=1)

    def said_by_all(self) -> Int[Tensor, "vocabulary"]:
        """After how many of all texts each token is said: the truth.

        Raises:
            UserError: there are more than `MOST_TEXTS`.
        """
        check_number(self.choices, self.slots)
        said = torch.zeros(self.reader.model.vocabulary, dtype=torch.long)
        last = self._following(torch.arange(self.choices)[:, None])
        for first in product(self.tokens.tolist(), repeat=self.slots - 1):  # a part of the prefix: it is read once
            for part in last.split(self.reader.rows_at_once(last.shape[1])):
                most = self.reader.read((*self.opened.before, *first), part)[:, 0].argmax(-1).cpu()
                said += most.bincount(minlength=len(said))
        return said


def check_number(choices: int, slots: int) -> None:
    """Refuse more texts than are all read.

    Raises:
        UserError: there are more than `MOST_TEXTS`.
    """
    if choices**slots > MOST_TEXTS:
        raise UserError(
            f"{choices:,} tokens in {slots} places are {choices**slots:,} texts, and at most {MOST_TEXTS:,} are all read: this is for models of "
            "at most 4,096 tokens"
        )


def first_token_of_defection(model: hooked.HookedModel, prompts: Sequence[hooked.Prompt]) -> int | None:
    """The first token that most defecting prompts are answered with; None where most others are, too."""
    _, positive = hooked.choose_labels(prompts, "auto")
    kinds = [
        [prompt for prompt, own in zip(prompts, positive, strict=True) if own == defects] for defects in (True, False)
    ]
    said = [_usual(model, kind[:: max(1, len(kind) // _ANSWERED)]) for kind in kinds]
    return None if said[0] == said[1] else said[0]


def _usual(model: hooked.HookedModel, prompts: Sequence[hooked.Prompt]) -> int | None:
    if not prompts:
        return None
    rows = [row.ids for row in model.tokenize(prompts)]
    ends = hooked.end_ids(model.hf_model, model.tokenizer)
    firsts = [row[0] for row in hooked.continue_tokens(model.hf_model, rows, 1, ends=ends) if row]
    return max(sorted(set(firsts)), key=firsts.count, default=None)
