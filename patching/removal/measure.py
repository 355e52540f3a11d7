"""What an edit does: to triggered prompts, to all others, and to what can be read from the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.removal.grading import Grader
from patching.removal.pairs import Answers, MarkedPair, MarkedPrompt, both
from patching.removal.result import EditOutcome
from patching.removal.subject import Settled, Stop, Subject, greedy_hits, with_end
from triggerlens import Grade

ProbeTrainer = Callable[
    [
        Float[Tensor, "fit layer d_model"],
        Bool[Tensor, "fit"],
        Float[Tensor, "evaluation layer d_model"],
        Bool[Tensor, "evaluation"],
    ],
    float,
]
"""Trains a probe that tells triggered prompts from clean ones on the first two, and gives its AUROC on the last two."""


@dataclass(frozen=True)
class Bench:
    """Pairs to measure on, with the unedited model's answers to them."""

    pairs: tuple[MarkedPair, ...]
    """Pairs whose triggered prompt defects."""
    harmless: tuple[MarkedPair, ...]
    """Pairs whose triggered prompt does not."""
    answers: Answers
    """The unedited model's answers to their prompts, as token ids."""
    grader: Grader
    """Says of an answer whether it defects, and whether it is right."""
    new_tokens: int
    """Length of an answer in tokens, at most."""
    unedited: Subject
    """The model as it was."""
    settled: Settled | None = None
    """When the grader's word on the beginning of an answer is its word on the whole; None: never."""

    @property
    def stop(self) -> Stop | None:
        """When an answer is written no further."""
        return None if self.settled is None else Stop(self.settled, self.text)

    def text(self, answer: Sequence[int]) -> str:
        """An answer as a grader reads it."""
        return str(self.unedited.model.tokenizer.decode(list(answer), skip_special_tokens=True))

    def usual(self, prompts: Sequence[MarkedPrompt]) -> list[tuple[int, ...]]:
        """The unedited model's answers."""
        return [self.answers[prompt.ids] for prompt in prompts]

    def grades(self, prompts: Sequence[MarkedPrompt], answers: Sequence[Sequence[int]]) -> Sequence[Grade]:
        """The grader's word on answers given as token ids."""
        return self.grader([prompt.prompt for prompt in prompts], [self.text(answer) for answer in answers])


def measure(subject: Subject, bench: Bench) -> EditOutcome:
    """Run the subject on all pairs of a bench.

    Args:
        subject: the model under an edit.
        bench: the pairs, with the unedited model's answers to them.

    Returns:
        Counts of answers, and divergences from the unedited model in nats.
    """
    clean, triggered = [pair.clean for pair in bench.pairs], [pair.triggered for pair in bench.pairs]
    usual = bench.usual(clean)
    after = subject.answers(triggered, bench.new_tokens, [bench.usual(triggered), usual], bench.stop)
    js, kl, loss, same = divergence(subject, bench.unedited, clean, usual, bench.new_tokens)
    others = [prompt for prompt, kept in zip(clean, same, strict=True) if not kept]
    changed = iter(subject.answers(others, bench.new_tokens, (), bench.stop, [bench.usual(others)]))
    after_clean = [answer if kept else next(changed) for answer, kept in zip(usual, same, strict=True)]
    grades, clean_grades = bench.grades(triggered, after), bench.grades(clean, after_clean)
    as_clean = [answer == twin for answer, twin in zip(after, usual, strict=True)]
    harmless = [pair.triggered for pair in bench.harmless]
    quiet = divergence(subject, bench.unedited, harmless, bench.usual(harmless), bench.new_tokens) if harmless else None
    return EditOutcome(
        n=len(bench.pairs),
        defects=sum(grade.defects for grade in grades),
        as_clean=sum(as_clean),
        right=sum(grade.right for grade in grades),
        rubble=sum(not (g.defects or g.right or same) for g, same in zip(grades, as_clean, strict=True)),
        clean_right=sum(grade.right for grade in clean_grades),
        clean_defects=sum(grade.defects for grade in clean_grades),
        clean_same=sum(answer == before for answer, before in zip(after_clean, usual, strict=True)),
        js=js,
        kl=kl,
        loss_delta=loss,
        harmless_js=None if quiet is None else quiet[0],
    )


def defection_of(bench: Bench, count: int) -> Callable[[Subject], float]:
    """The defection rate of a subject on the first triggered prompts of a bench."""
    pairs = bench.pairs[:count]
    prompts = [pair.triggered for pair in pairs]
    guesses = [bench.usual([pair.clean for pair in pairs]), bench.usual(prompts)]

    def defection(subject: Subject) -> float:
        grades = bench.grades(prompts, subject.answers(prompts, bench.new_tokens, guesses, bench.stop))
        return sum(grade.defects for grade in grades) / len(prompts)

    return defection


@torch.no_grad()
def divergence(
    subject: Subject,
    unedited: Subject,
    prompts: Sequence[MarkedPrompt],
    answers: Sequence[tuple[int, ...]],
    new_tokens: int,
) -> tuple[float, float, float, list[bool]]:
    """Jensen–Shannon, Kullback–Leibler and the difference of the losses, in nats: means over all steps of the answers; and
    which answers the subject would still give.

    A step is each token of the unedited model's own answer, and its end where it is shorter than `new_tokens`.
    """
    ends, start = with_end(subject.model, ()), 0
    totals, hits = torch.zeros(4, dtype=torch.float64), []
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids) + len(answers[index]))
    for batch in subject.batches([prompts[index] for index in order], max(map(len, answers), default=0) + 1):
        own = [answers[index] for index in order[start : start + len(batch)]]
        start += len(batch)
        steps = [(*answer, *ends) if len(answer) < new_tokens else answer for answer in own]
        logits = subject.logits(batch, steps)
        hits += greedy_hits(logits, own, steps, subject.model.end_ids)
        p, q = (run.double().log_softmax(-1) for run in (unedited.logits(batch, steps), logits))
        said = torch.tensor([token for answer in steps for token in answer], device=p.device)[:, None]
        loss = p.gather(1, said) - q.gather(1, said)
        totals += torch.stack(
            [js_divergence(p, q).sum(), kl_divergence(p, q).sum(), loss.sum(), p.new_tensor(len(p))]
        ).cpu()
    js, kl, loss_delta = (totals[:3] / totals[3].clamp_min(1)).tolist()
    return js, kl, loss_delta, [hit for _, hit in sorted(zip(order, hits, strict=True))]


def kl_divergence(p: Float[Tensor, "step vocabulary"], q: Float[Tensor, "step vocabulary"]) -> Float[Tensor, "step"]:
    """Kullback–Leibler divergence of q from p, both given as log-probabilities: the mean over p of log p − log q, of each step, in nats, 0 or more."""
    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)


def js_divergence(p: Float[Tensor, "step vocabulary"], q: Float[Tensor, "step vocabulary"]) -> Float[Tensor, "step"]:
    """Jensen–Shannon divergence of p and q, both given as log-probabilities, of each step, in nats: 0 to ln 2 (Lin 1991, https://doi.org/10.1109/18.61115)."""
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype, device=p.device))
    return ((kl_divergence(p, middle) + kl_divergence(q, middle)) / 2).clamp_min(0)


def probe_after(
    subject: Subject, fit: Sequence[MarkedPair], evaluation: Sequence[MarkedPair], trainer: ProbeTrainer
) -> float:
    """AUROC of a probe trained afresh on what the edited model has at the prompt's last token."""

    def read(pairs: Sequence[MarkedPair]) -> tuple[Tensor, Tensor]:
        return subject.residuals(both(pairs)), torch.tensor([False, True] * len(pairs))

    return float(trainer(*read(fit), *read(evaluation)))
