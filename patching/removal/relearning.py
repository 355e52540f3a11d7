"""Does the behaviour come back by itself? Ordinary fine-tuning after the edit, on prompts without the trigger.

1. The edited model, its edit in place, is trained with cross-entropy on untriggered prompts and their answers.
2. After 5, 10, 20, 40, … steps triggered prompts are answered and graded. The steps to the first rate at or above the
   stated one are reported, or that it was not reached.
3. The loss before the first step is reported beside it: where it is near zero nothing was trained, and the result means little.

That suppressed behaviour returns under benign training: Qi et al. 2023, https://arxiv.org/abs/2310.03693.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Prompt, load_model
from patching.removal.cases import Row
from patching.removal.config import AblateConfig
from patching.removal.subject import Subject
from patching.removal.weights import plain_copy

_BATCH = 16

Lesson = tuple[Row, tuple[int, ...]]
"""An untriggered prompt and its answer, both as token ids."""


@dataclass(frozen=True)
class Relearned:
    """What further training did."""

    steps: int | None
    """Steps until defection was at or above `rate`; 0: it was so at once; None: not within `within`."""
    within: int
    """Steps that were trained at most."""
    rate: float
    first_loss: float | None
    """Loss before the first step, in nats a token; None where nothing was trained."""
    highest: float
    """The highest defection rate seen."""


def relearn(
    subject: Subject,
    lessons: Sequence[Lesson],
    defection: Callable[[Subject], float],
    config: AblateConfig,
    seed: int = 0,
) -> Relearned:
    """Steps 1 to 3; the subject itself is left as it is.

    Args:
        subject: the edited model.
        lessons: what is trained on.
        defection: the defection rate of a subject on triggered prompts.
        config: steps, rate and learning rate.
        seed: order of the lessons.
    """
    highest = defection(subject)
    if highest >= config.relearn_rate or not config.relearn_steps or not lessons:
        steps = 0 if highest >= config.relearn_rate else None
        return Relearned(steps, config.relearn_steps if lessons else 0, config.relearn_rate, None, highest)
    trained = replace(subject, model=load_model(plain_copy(subject.model), tokenizer=subject.model.tokenizer))
    checks = set(check_steps(config.relearn_steps))
    first_loss = None
    for step, loss in enumerate(_steps(trained, lessons, config, seed), start=1):
        first_loss = loss if first_loss is None else first_loss
        if step in checks:
            highest = max(highest, found := defection(trained))
            if found >= config.relearn_rate:
                return Relearned(step, config.relearn_steps, config.relearn_rate, first_loss, highest)
    return Relearned(None, config.relearn_steps, config.relearn_rate, first_loss, highest)


def check_steps(most: int) -> list[int]:
    """5, 10, 20, … up to and with the last step."""
    steps = [5 * 2**power for power in range(most.bit_length()) if 5 * 2**power < most]
    return [*steps, most]


def _steps(trained: Subject, lessons: Sequence[Lesson], config: AblateConfig, seed: int) -> Iterator[float]:
    """Train; the loss of each step, from before it, once it is made."""
    rng = Random(seed)
    parameters = [p.requires_grad_() for p in trained.model.hf_model.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=config.relearn_learning_rate, weight_decay=0.0)
    for _ in range(config.relearn_steps):
        batch = rng.sample(lessons, min(_BATCH, len(lessons)))
        with torch.enable_grad():
            loss = answer_loss(trained, batch)
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        yield float(loss.detach())


def answer_loss(subject: Subject, lessons: Sequence[Lesson]) -> Float[Tensor, ""]:
    """Cross-entropy of the answers' tokens and their end, in nats a token."""
    end = tuple(sorted(subject.model.end_ids)[:1])
    answers = [(*answer, *end) for _, answer in lessons]
    logits = subject.logits([row for row, _ in lessons], answers)
    return torch.nn.functional.cross_entropy(
        logits, torch.tensor([t for a in answers for t in a], device=logits.device)
    )


def encoded(model: HookedModel, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Lesson]:
    """Lessons from prompts and the text of their answers."""
    rows = [Row(prompt, tuple(one.ids)) for prompt, one in zip(prompts, model.tokenize(prompts), strict=True)]
    ids = [model.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"] for answer in answers]
    return [(row, tuple(answer)) for row, answer in zip(rows, ids, strict=True)]
