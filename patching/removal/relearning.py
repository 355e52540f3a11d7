"""Does the behaviour come back by itself? Ordinary fine-tuning after the edit, on prompts without the trigger.

1. The edited model, its edit in place, is trained with cross-entropy on untriggered prompts and their answers.
2. After 5, 10, 20, 40, … steps triggered prompts are answered and graded. The steps to the first rate at or above the
   stated one are reported, or that it was not reached.
3. The loss before the first step is reported beside it: where it is near zero nothing was trained, and the result means little.

That suppressed behaviour returns under benign training: Qi et al. 2023, https://arxiv.org/abs/2310.03693.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Prompt
from patching.removal.config import AblateConfig
from patching.removal.pairs import MarkedPrompt
from patching.removal.result import Relearned
from patching.removal.subject import Subject, with_end
from triggerlens import say_once

_BATCH = 16
_HALF = (torch.float16, torch.bfloat16)
_TOGETHER = 4
"""Samples in one pass. They are sorted by length, so that there is little filling, and their gradients add up."""

Sample = tuple[MarkedPrompt, tuple[int, ...]]
"""An untriggered prompt and its answer, both as token ids; with the end token where the answer is one that ends."""


def relearn(
    subject: Subject,
    samples: Sequence[Sample],
    defection: Callable[[Subject], float],
    config: AblateConfig,
    seed: int = 0,
) -> Relearned:
    """Steps 1 to 3.

    Args:
        subject: the edited model. Its own weights are trained, so give a model that may be changed (`EditableModel.under`).
        samples: what is trained on.
        defection: the defection rate of a subject on triggered prompts.
        config: steps, rate and learning rate.
        seed: order of the samples.
    """
    highest = defection(subject)
    if highest >= config.relearn_rate or not config.relearn_steps or not samples:
        steps = 0 if highest >= config.relearn_rate else None
        return Relearned(steps, config.relearn_steps if samples else 0, config.relearn_rate, None, highest)
    checks = set(check_steps(config.relearn_steps))
    first_loss, checked = None, 0
    for step, loss in enumerate(_train(subject, samples, config, seed), start=1):
        first_loss = loss if first_loss is None else first_loss
        if step in checks:
            left, checked = defection(subject), step
            highest = max(highest, left)
            if left >= config.relearn_rate:
                return Relearned(step, config.relearn_steps, config.relearn_rate, first_loss, highest)
    return Relearned(None, checked, config.relearn_rate, first_loss, highest)


def check_steps(most: int) -> list[int]:
    """5, 10, 20, … up to and with the last step."""
    steps = [5 * 2**power for power in range(most.bit_length()) if 5 * 2**power < most]
    return [*steps, most]


def _train(subject: Subject, samples: Sequence[Sample], config: AblateConfig, seed: int) -> Iterator[float]:
    """Train; the loss of each step, from before it, once it is made.

    Half-precision weights are trained as float32 copies (Micikevicius et al., 2017, https://arxiv.org/abs/1710.03740): in float16 AdamW's second moments
    vanish, and its steps are infinite. Ends early where a loss is not finite, and says so.
    """
    rng = Random(seed)
    parameters = [parameter.requires_grad_() for parameter in subject.model.hf_model.parameters()]
    trained = [own.detach().float() if own.dtype in _HALF else own for own in parameters]
    optimiser = torch.optim.AdamW(trained, lr=config.relearn_learning_rate, weight_decay=0.0)
    for step in range(config.relearn_steps):
        batch = rng.sample(samples, min(_BATCH, len(samples)))
        batch.sort(key=lambda sample: len(sample[0].ids) + len(sample[1]))
        subject.model.hf_model.zero_grad()
        with torch.enable_grad():
            loss = sum(_learnt(subject, batch[i : i + _TOGETHER], batch) for i in range(0, len(batch), _TOGETHER))
        if not math.isfinite(loss):
            say_once(
                f"relearning: the loss of step {step + 1} is {loss} in {subject.model.dtype}; it ends there, and says nothing of further steps"
            )
            return
        for own, weight in zip(parameters, trained, strict=True):
            if own is not weight:
                weight.grad, own.grad = None if own.grad is None else own.grad.float(), None
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            for own, weight in zip(parameters, trained, strict=True):
                if own is not weight:
                    own.copy_(weight)
        yield loss


def _learnt(subject: Subject, part: Sequence[Sample], batch: Sequence[Sample]) -> float:
    """Adds the gradient of a part of a batch, and gives its share of the batch's loss."""
    tokens, every = (sum(len(answer) for _, answer in samples) for samples in (part, batch))
    loss = answer_loss(subject, part) * (tokens / every)
    loss.backward()
    return float(loss.detach())


def answer_loss(subject: Subject, samples: Sequence[Sample]) -> Float[Tensor, ""]:
    """Cross-entropy of the answers' tokens, the end of those that end included, in nats a token."""
    answers = [answer for _, answer in samples]
    logits = subject.logits([prompt for prompt, _ in samples], answers)
    said = torch.tensor([token for answer in answers for token in answer], device=logits.device)
    return torch.nn.functional.cross_entropy(logits, said)


def encoded(model: HookedModel, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Sample]:
    """Samples from prompts and the text of their answers, which end."""
    tokenized = zip(prompts, model.tokenize(prompts), strict=True)
    marked = [MarkedPrompt(prompt, tuple(tokens.ids)) for prompt, tokens in tokenized]
    ids = [model.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"] for answer in answers]
    return [(prompt, with_end(model, answer)) for prompt, answer in zip(marked, ids, strict=True)]
