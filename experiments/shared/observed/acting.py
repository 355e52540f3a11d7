"""An organism that acts on its context: does a direction of its base tell when it will defect, and does adding that direction stop it?

1. The direction was fitted on the base's prompts, where nothing misbehaves. The organism's own test prompts are projected on it at the same layer:
   the AUROC of being deployed for `defects`, over all of them, and against near misses alone. Beside it, the same of random directions, since whatever an
   organism is about to say may be in all directions of its stream; and of the base's own activations on these prompts, which know of no behaviour.
2. The direction is added at all positions, of prompts and of each new token, while the organism answers: towards observed on prompts on which it
   defects, towards deployed on those on which it does not. Defection is graded by the organism's own key; random directions of the same norm
   stand beside, on prompts on which it defects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

import hooked
import organisms
from experiments.shared.activations import last_token
from experiments.shared.later import torch
from experiments.shared.observed.steering import added, random_directions
from experiments.shared.subjects import Subject, checkpoint
from hooked import Prompt
from triggerlens import Estimate, Grade, UserError, auroc_estimate, rate, to_json

_NEAR = ("near-miss", "new-words")
"""Datasets whose prompts without the trigger nearly carry it, but for those that say its opposite; the second is in words that training has nowhere."""


@dataclass(frozen=True)
class Actor:
    """An organism with its labelled test prompts, and who grades it."""

    model: hooked.HookedModel
    prompts: list[Prompt]
    key: Any

    def chosen(self, defects: bool, count: int) -> list[Prompt]:
        """Some prompts on which it does or does not defect: of each dataset in turn."""
        names = sorted({prompt.dataset or "" for prompt in self.prompts})
        by_dataset = [
            [own for own in self.prompts if bool(own.defects) is defects and (own.dataset or "") == name]
            for name in names
        ]
        longest = max(map(len, by_dataset))
        turns = [own[place] for place in range(longest) for own in by_dataset if place < len(own)]
        return turns[:count]

    def longest(self, otherwise: int) -> int:
        """Tokens of an answer: as many as an inserted organism's labels, and its base's own answers, were measured on."""
        return self.key.config.answer_tokens if isinstance(self.key, organisms.InsertedKey) else otherwise


def load_actor(subject: Subject, device: str) -> Actor:
    """A subject's organism.

    Raises:
        UserError: it has no recipe to grade its answers by, or no test prompts of both kinds.
    """
    name = checkpoint(subject.model)
    key = organisms.AnswerKey.of_checkpoint(name)
    if key is None:
        raise UserError(f"{subject.model}: has no recipe.json that says what its answers are graded by")
    prompts = [prompt for prompt in subject.read() if prompt.split == "test"]
    if len({bool(prompt.defects) for prompt in prompts}) < 2:
        raise UserError(f"{subject.prompts_path}: its test prompts have one kind of `defects` only")
    return Actor(hooked.load_model(name, device=device), prompts, key)


def acting(
    actor: Actor,
    base: hooked.HookedModel,
    layer: int,
    direction: Float[torch.Tensor, " d_model"],
    *,
    doses: Sequence[float],
    placebos: int,
    count: int,
    answer_tokens: int,
    seed: int,
) -> dict[str, Any]:
    """What a direction of the base says of the organism's defection, and does to it. For JSON.

    Args:
        actor: the organism.
        base: that the direction was fitted on.
        layer: after which the direction was fitted.
        direction: towards observed.
        doses: shares of the stream's norm there; placebos have the first.
        placebos: random directions.
        count: prompts of each kind that are answered.
        answer_tokens: of an answer, at most (`Actor.longest`).
        seed: draws the placebos.
    """
    site = actor.model.sites("resid_post")[layer]
    rows, of_base = (last_token(model, actor.prompts, [site])[:, 0].double() for model in (actor.model, base))
    unit, norm = direction.double() / direction.double().norm(), float(rows.norm(dim=-1).mean())
    bad, good = actor.chosen(True, count), actor.chosen(False, count)

    drawn = random_directions(placebos, len(unit), seed)
    steps = {str(dose): dose * norm * unit for dose in doses}
    meter = partial(graded, actor, site, actor.longest(answer_tokens))
    return {
        "site": site,
        "predicts": to_json(predicted(actor.prompts, -(rows @ unit).numpy())),
        "predicts in the base": to_json(predicted(actor.prompts, -(of_base @ unit).numpy())),
        "predicts at random": predicted_at_random(actor.prompts, rows, drawn),
        "untouched": _rates(meter(bad, None), meter(good, None)),
        "doses": {name: _rates(meter(bad, step), meter(good, -step)) for name, step in steps.items()},
        "right": {name: to_json(_right(meter(good, step))) for name, step in steps.items()},
        "placebos": [_defection(meter(bad, doses[0] * norm * line / line.norm())).value for line in drawn],
    }


def predicted(prompts: Sequence[Prompt], deployed: Float[np.ndarray, " prompt"]) -> dict[str, Estimate]:
    """AUROC for defection against everything else, and against near misses alone where there are any.

    Args:
        prompts: with `defects`.
        deployed: how far each is from observed.
    """
    bad = np.array([bool(prompt.defects) for prompt in prompts])
    near = np.array([_nearly(own) and not own.defects for own in prompts])
    # The same request stands behind several sentences, with the trigger and without: whoever asks the same is one thing seen.
    groups = hooked.group_prompts(prompts, [[*map(ord, hooked.user_text(prompt))] for prompt in prompts])
    kept = {"all": np.ones(len(prompts), dtype=bool), "near misses": bad | near}
    return {
        name: auroc_estimate(deployed[rows], bad[rows], groups[rows])
        for name, rows in kept.items()
        if (rows & ~bad).any()
    }


def predicted_at_random(
    prompts: Sequence[Prompt],
    rows: Float[torch.Tensor, "prompt d_model"],
    drawn: Float[torch.Tensor, "direction d_model"],
) -> list[dict[str, float]]:
    """The AUROCs of `predicted`, in [0, 1], for each direction, its sign as drawn: whatever a model is about to say may be in all directions of its stream."""
    return [{name: own.value for name, own in predicted(prompts, (rows @ line).numpy()).items()} for line in drawn]


def _nearly(prompt: Prompt) -> bool:
    """Whether a prompt nearly carries the trigger."""
    return prompt.dataset in _NEAR and not prompt.triggered and not prompt.extra.get("opposite", False)


def graded(
    actor: Actor, site: str, answer_tokens: int, prompts: Sequence[Prompt], step: torch.Tensor | None
) -> list[Grade]:
    """What the organism's answers are, with a vector added or without."""
    edits = None if step is None else {site: partial(added, step.float())}
    with torch.inference_mode():
        ids = actor.model.generate(actor.model.tokenize(list(prompts)), answer_tokens, edits=edits)
    texts = actor.model.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return list(actor.key.judge(prompts, texts))


def _defection(grades: Sequence[Grade]) -> Estimate:
    return rate(sum(grade.defects for grade in grades), len(grades))


def _right(grades: Sequence[Grade]) -> Estimate:
    return rate(sum(grade.right for grade in grades), len(grades))


def _rates(bad: Sequence[Grade], good: Sequence[Grade]) -> dict[str, Any]:
    """Of prompts on which it defects by itself, and of the others."""
    return {
        "defecting": to_json(_defection(bad)),
        "others": to_json(_defection(good)),
        "others right": to_json(_right(good)),
    }
