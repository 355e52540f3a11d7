"""What every method is given to fit an edit: this seed's pairs, the unedited model's answers, and what the patching map names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, pad_right, parse_site
from patching.metric import first_parting, is_flat
from patching.removal.config import AblateConfig
from patching.removal.pairs import Answers, MarkedPair, MarkedPrompt
from patching.removal.route import Route
from patching.removal.subject import Subject
from patching.removal.weights import EditableModel

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Fit:
    """One seed's fitting side; two are the same only where they are one."""

    model: HookedModel
    """The unedited model."""
    editable: EditableModel
    """The same model's copy, for methods that change or train weights."""
    pairs: tuple[MarkedPair, ...]
    """Pairs to fit on, whose triggered prompt defects."""
    harmless: tuple[MarkedPair, ...]
    """Pairs whose triggered prompt does not defect."""
    answers: Answers
    """The unedited model's answers to them, as token ids."""
    route: Route
    """The heads and layers that the patching map named."""
    seed: int
    """Of everything that a method draws."""
    config: AblateConfig
    """Sizes and strengths."""
    shared: Subject | None = None
    """The unedited model, which may remember what it was asked; a plain one where None."""
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, compute: Callable[[Fit], Value]) -> Value:
        """What `compute` gives for this fit, computed once: several methods may share a step."""
        if compute not in self._known:
            self._known[compute] = compute(self)
        value: Value = self._known[compute]
        return value

    @property
    def unedited(self) -> Subject:
        """The model as it is."""
        return self.shared or Subject(self.model, batch_size=self.config.batch_size)

    def activations(
        self, prompts: Sequence[MarkedPrompt], sites: Sequence[str], subject: Subject | None = None
    ) -> Iterator[
        tuple[Sequence[MarkedPrompt], dict[str, Float[Tensor, "batch position width"]], Bool[Tensor, "batch position"]]
    ]:
        """Activations of prompts (padded on the right) batch by batch, and which positions are the prompts' own."""
        subject = subject or self.unedited
        last_layer = max(parse_site(site).layer for site in sites)
        for batch in subject.batches(prompts):
            tokens = pad_right([prompt.ids for prompt in batch], self.model.pad_id)
            lengths = torch.tensor([len(prompt.ids) for prompt in batch])
            real = torch.arange(tokens.shape[1]) < lengths[:, None]
            edits = subject.edit.at(torch.zeros_like(real))
            with torch.no_grad():
                run = self.model.run(tokens, reads=dict.fromkeys(sites, _kept), edits=edits, last_layer=last_layer)
            # Of a model spread over devices, sites lie where their blocks are; they are reckoned with in one place.
            values = {site: value.to(self.model.device) for site, value in run.activations.items()}
            yield batch, values, real.to(self.model.device)

    def mean_of(
        self,
        prompts: Sequence[MarkedPrompt],
        sites: Sequence[str],
        chosen: Callable[[MarkedPrompt], Sequence[int]] | None = None,
    ) -> dict[str, Float[Tensor, "width"]]:
        """Each site's mean over tokens: of the chosen positions of each prompt, or of all."""
        sums = dict.fromkeys(sites, torch.zeros((), dtype=torch.float64, device=self.model.device))
        count = 0
        for batch, values, real in self.activations(prompts, sites):
            mask = real if chosen is None else _mask(batch, chosen, real)
            count += int(mask.sum())
            for site in sites:
                sums[site] = sums[site] + values[site][mask].double().sum(0)
        return {site: (total / max(1, count)).to(self.model.dtype) for site, total in sums.items()}


@dataclass(frozen=True)
class Parting:
    """Pairs whose two answers part, and how the unedited model stands there: what any number of edits are compared with."""

    triggered: tuple[MarkedPrompt, ...]
    reads: tuple[tuple[tuple[int, ...], int, int], ...]
    """What both answers share, the clean answer's next token, and the other's."""
    before: Float[Tensor, "pair"]
    """Logit of the clean answer's next token less that of the other's, on the triggered prompts."""
    goal: Float[Tensor, "pair"]
    """The same, on the untriggered ones."""

    @classmethod
    def of(cls, unedited: Subject, pairs: Sequence[MarkedPair], answers: Answers) -> Parting | None:
        """None: no pair's answers part, or the model stands alike on both prompts of each; pairs on which it does are left out, as patching
        refuses them."""
        parting = [pair for pair in pairs if answers[pair.clean.ids] != answers[pair.triggered.ids]]
        if not parting:
            return None
        end = unedited.model.turn_end
        reads = tuple(first_parting(answers[pair.clean.ids], answers[pair.triggered.ids], end) for pair in parting)
        triggered = tuple(pair.triggered for pair in parting)
        before = _differences(unedited, triggered, reads)
        goal = _differences(unedited, [pair.clean for pair in parting], reads)
        kept = [at for at in range(len(parting)) if not is_flat(float(goal[at]), float(before[at]))]
        if not kept:
            return None
        return cls(tuple(triggered[at] for at in kept), tuple(reads[at] for at in kept), before[kept], goal[kept])

    def restored(self, subject: Subject) -> float:
        """How far triggered prompts have come back to the clean behaviour: 0 not at all, 1 wholly.

        The patching metric: the logit difference of the two answers' next tokens, normalised by both unedited runs; the mean
        over the pairs.
        """
        now = _differences(subject, self.triggered, self.reads)
        return float(((now - self.before) / (self.goal - self.before)).mean())


@torch.no_grad()
def _differences(
    subject: Subject, prompts: Sequence[MarkedPrompt], reads: Sequence[tuple[tuple[int, ...], int, int]]
) -> Float[Tensor, "prompt"]:
    """The logit of the clean answer's next token less that of the other's, where they part."""
    differences: list[float] = []
    for batch in subject.batches(prompts, max(len(shared) for shared, _, _ in reads) + 1):
        own = reads[len(differences) : len(differences) + len(batch)]
        logits = subject.logits(batch, [(*shared, clean) for shared, clean, _ in own])
        last = torch.tensor([len(shared) + 1 for shared, _, _ in own]).cumsum(0) - 1
        differences += [
            float(row[clean] - row[defect]) for row, (_, clean, defect) in zip(logits[last], own, strict=True)
        ]
    return torch.tensor(differences, dtype=torch.float64)


def _mask(
    batch: Sequence[MarkedPrompt],
    chosen: Callable[[MarkedPrompt], Sequence[int]],
    real: Bool[Tensor, "batch position"],
) -> Bool[Tensor, "batch position"]:
    mask = torch.zeros_like(real)
    for index, prompt in enumerate(batch):
        mask[index, list(chosen(prompt))] = True
    return mask


def _kept(value: Tensor) -> Tensor:
    return value.detach().clone()
