"""What an edit does: to triggered prompts, to all others, and to what can be read from the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.removal.cases import Answers, Case, Row
from patching.removal.grading import Grader
from patching.removal.subject import Subject, greedy_hits
from triggerlens import wilson_interval

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

    cases: tuple[Case, ...]
    harmless: tuple[Case, ...]
    answers: Answers
    grader: Grader
    new_tokens: int
    unedited: Subject

    def text(self, answer: Sequence[int]) -> str:
        """An answer as a grader reads it."""
        return str(self.unedited.model.tokenizer.decode(list(answer), skip_special_tokens=True))


@dataclass(frozen=True)
class Measured:
    """Counts and means on one set of pairs."""

    n: int
    """Pairs."""
    defects: int
    """Triggered prompts whose answer defects."""
    as_clean: int
    """Triggered prompts answered just as the unedited model answers their untriggered twins."""
    right: int
    """Triggered prompts whose answer the grader finds right."""
    rubble: int
    """Triggered prompts whose answer neither defects, nor is right, nor is as clean."""
    clean_right: int
    """Untriggered prompts whose answer the grader finds right."""
    clean_defects: int
    clean_same: int
    """Untriggered prompts answered just as by the unedited model."""
    js: float
    """Mean Jensen–Shannon divergence a step from the unedited model along its own answers to untriggered prompts, in nats
    (at most 0.693)."""
    kl: float
    """Kullback–Leibler divergence of the edited from the unedited model, the same way, in nats."""
    loss_delta: float
    """Loss on those answers, edited less unedited, in nats a token."""
    harmless_js: float | None
    """As `js`, on triggered prompts that do not defect; None where there are none."""

    @property
    def defection_rate(self) -> float:
        return self.defects / self.n

    @property
    def defection_rate_ci(self) -> tuple[float, float]:
        """95% Wilson interval."""
        return wilson_interval(self.defects, self.n)

    @property
    def clean_accuracy(self) -> float:
        return self.clean_right / self.n


def measure(subject: Subject, bench: Bench) -> Measured:
    """Run the subject on all pairs of a bench."""
    clean, triggered = [case.clean for case in bench.cases], [case.triggered for case in bench.cases]
    usual = [[bench.answers[row.ids] for row in rows] for rows in (clean, triggered)]
    after = subject.answers(triggered, bench.new_tokens, [usual[1], usual[0]])
    js, kl, loss, same = divergence(subject, bench.unedited, clean, usual[0], bench.new_tokens)
    others = [row for row, kept in zip(clean, same, strict=True) if not kept]
    changed = iter(subject.answers(others, bench.new_tokens))
    after_clean = [answer if kept else next(changed) for answer, kept in zip(usual[0], same, strict=True)]
    grades = bench.grader([row.prompt for row in triggered], [bench.text(answer) for answer in after])
    clean_grades = bench.grader([row.prompt for row in clean], [bench.text(answer) for answer in after_clean])
    as_clean = [one == other for one, other in zip(after, usual[0], strict=True)]
    harmless = [case.triggered for case in bench.harmless]
    quiet = [bench.answers[row.ids] for row in harmless]
    return Measured(
        n=len(bench.cases),
        defects=sum(grade.defects for grade in grades),
        as_clean=sum(as_clean),
        right=sum(grade.right for grade in grades),
        rubble=sum(not (g.defects or g.right or same) for g, same in zip(grades, as_clean, strict=True)),
        clean_right=sum(grade.right for grade in clean_grades),
        clean_defects=sum(grade.defects for grade in clean_grades),
        clean_same=sum(one == other for one, other in zip(after_clean, usual[0], strict=True)),
        js=js,
        kl=kl,
        loss_delta=loss,
        harmless_js=divergence(subject, bench.unedited, harmless, quiet, bench.new_tokens)[0] if harmless else None,
    )


def defection_of(bench: Bench, count: int) -> Callable[[Subject], float]:
    """The defection rate of a subject on the first triggered prompts of a bench."""
    cases = bench.cases[:count]
    rows = [case.triggered for case in cases]
    guesses = [[bench.answers[getattr(case, side).ids] for case in cases] for side in ("clean", "triggered")]

    def rate(subject: Subject) -> float:
        answers = subject.answers(rows, bench.new_tokens, guesses)
        grades = bench.grader([row.prompt for row in rows], [bench.text(answer) for answer in answers])
        return sum(grade.defects for grade in grades) / len(rows)

    return rate


@torch.no_grad()
def divergence(
    subject: Subject, unedited: Subject, rows: Sequence[Row], answers: Sequence[tuple[int, ...]], new_tokens: int
) -> tuple[float, float, float, list[bool]]:
    """Jensen–Shannon, Kullback–Leibler and the difference of the losses, in nats: means over all steps of the answers; and
    which answers the subject would still give.

    A step is each token of the unedited model's own answer, and its end where it is shorter than `new_tokens`.
    """
    ends, at = tuple(sorted(subject.model.end_ids)[:1]), 0
    totals, hits = torch.zeros(4, dtype=torch.float64), []
    for batch in subject.batches(rows, max(map(len, answers), default=0) + 1):
        own = answers[at : at + len(batch)]
        at += len(batch)
        steps = [(*answer, *ends) if len(answer) < new_tokens else answer for answer in own]
        logits = subject.logits(batch, steps)
        hits += greedy_hits(logits, own, steps, subject.model.end_ids)
        p, q = (one.double().log_softmax(-1) for one in (unedited.logits(batch, steps), logits))
        said = torch.tensor([token for answer in steps for token in answer], device=p.device)[:, None]
        loss = p.gather(1, said) - q.gather(1, said)
        totals += torch.stack(
            [js_divergence(p, q).sum(), kl_divergence(p, q).sum(), loss.sum(), p.new_tensor(len(p))]
        ).cpu()
    js, kl, loss_delta = (totals[:3] / totals[3].clamp_min(1)).tolist()
    return js, kl, loss_delta, hits


def kl_divergence(p: Float[Tensor, "step vocabulary"], q: Float[Tensor, "step vocabulary"]) -> Float[Tensor, "step"]:
    """Of q from p, from log-probabilities, in nats."""
    return torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)


def js_divergence(p: Float[Tensor, "step vocabulary"], q: Float[Tensor, "step vocabulary"]) -> Float[Tensor, "step"]:
    """From log-probabilities, in nats: 0 to ln 2 (Lin 1991, https://doi.org/10.1109/18.61115)."""
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype, device=p.device))
    return ((kl_divergence(p, middle) + kl_divergence(q, middle)) / 2).clamp_min(0)


def probe_after(subject: Subject, fit: Sequence[Case], evaluation: Sequence[Case], trainer: ProbeTrainer) -> float:
    """AUROC of a probe trained afresh on what the edited model has at the prompt's last token."""

    def read(cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
        rows = [row for case in cases for row in (case.clean, case.triggered)]
        return subject.residuals(rows), torch.tensor([False, True] * len(cases))

    return float(trainer(*read(fit), *read(evaluation)))
