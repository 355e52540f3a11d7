"""A low-rank weight edit that is trained on pairs alone; the model is its own teacher, and no label of any answer is needed.

1. The unedited model answers each untriggered prompt greedily. The edited model, on its triggered twin and along that answer,
   is to give the unedited model's distributions on the untriggered prompt: at every token where a run can part, and so also
   where the patching metric is read, the effect that an exact patch of everything would have.
2. On untriggered prompts, and on triggered ones that do not defect, it is to give the unedited model's distributions there,
   so that nothing else moves: the same divergence, with the weight `keep`.
3. `peft` trains rank-r updates of the matrices (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685) and merges them, so
   that what is left is an ordinary checkpoint. The matrices are all of the blocks', or those of the attentions that the
   patching map names.

The divergence is Kullback and Leibler's, of the student from the teacher (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from hooked import HookedModel, find_anatomy, shared_runs
from patching.removal.edits import SHARE, WeightEdit
from patching.removal.fit import Fit
from patching.removal.methods.method import Method, usual_placebo
from patching.removal.pairs import MarkedPrompt, both
from patching.removal.subject import continuation_logits, with_end
from patching.removal.weights import writes_vectors

_WARM_UP = 10
_TOGETHER = 8
"""Lessons in one pass. They are sorted by length, so that there is little filling, and their gradients add up."""


@dataclass(frozen=True)
class Lesson:
    """One prompt to learn from: the student reads `student`, the teacher `teacher`, both followed by `answer`."""

    student: MarkedPrompt
    teacher: MarkedPrompt
    answer: tuple[int, ...]


def everywhere(fit: Fit) -> WeightEdit:
    """Every linear map of every block; `facts` says which share of the blocks' weights these are."""
    matrices = block_matrices(fit.editable.plain)
    edit = trained(fit, "low-rank edit", matrices)
    return replace(edit, facts={**edit.facts, SHARE: share_of_blocks(fit.editable.plain, matrices)})


def where_the_map_says(fit: Fit) -> WeightEdit:
    """The attention matrices of the layers whose heads the patching map names."""
    return trained(fit, "low-rank edit where the map says", block_matrices(fit.editable.plain, fit.route.layers))


def trained(fit: Fit, name: str, matrices: Sequence[str]) -> WeightEdit:
    """Steps 1 to 3."""
    torch.manual_seed(fit.seed)
    names = [f"{path}.weight" for path in matrices]
    with fit.editable.under() as model:
        adapted = _adapted(model.hf_model, fit.config.rank, matrices)
        try:
            losses = _train(fit, adapted, name)
        finally:
            merged = adapted.merge_and_unload()
            vars(merged).pop("peft_config", None)  # peft would take the next updates for a second adapter
        after = {key: merged.get_parameter(key).detach().clone() for key in names}
    before = fit.editable.original
    norm = sum(float((after[key] - before[key]).double().square().sum()) for key in names) ** 0.5
    facts = {"rank": fit.config.rank, "matrices": len(matrices), "norm": norm, **losses}
    return WeightEdit(name, after, facts=facts)


def _adapted(plain: Any, rank: int, matrices: Sequence[str]) -> Any:
    """The model with an update of its own beside each matrix; `merge_and_unload` gives it back."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():  # peft warns that GPT-2's matrices are transposed, and then does what is right
        warnings.simplefilter("ignore")
        return get_peft_model(plain, LoraConfig(r=rank, lora_alpha=rank, target_modules=list(matrices)))


def block_matrices(plain: Any, attention_of: Sequence[int] | None = None) -> list[str]:
    """Paths of a `transformers` model's linear maps in all blocks, or of those in the attentions of some layers."""
    anatomy = find_anatomy(plain)
    roots = (
        [anatomy.blocks]
        if attention_of is None
        else [anatomy.block_path(layer, anatomy.attention) for layer in attention_of]
    )
    return [
        f"{root}.{path}"
        for root in roots
        for path, module in plain.get_submodule(root).named_modules()
        if writes_vectors(module)
    ]


def share_of_blocks(plain: Any, matrices: Sequence[str]) -> float:
    """Share of the weights of all blocks, norms and biases apart, that the named linear maps have, 0 to 1. Experts that are kept in one tensor, and
    convolutions, are no linear maps."""
    blocks = plain.get_submodule(find_anatomy(plain).blocks)
    every = sum(weight.numel() for weight in blocks.parameters() if weight.ndim > 1)
    return sum(plain.get_submodule(path).weight.numel() for path in matrices) / every


def lessons_of(fit: Fit) -> tuple[list[Lesson], list[Lesson]]:
    """What must change (step 1), and what must not (step 2)."""
    change = [Lesson(pair.triggered, pair.clean, fit.answers[pair.clean.ids]) for pair in fit.pairs]
    others = [pair.clean for pair in fit.pairs] + both(fit.harmless)
    return change, [Lesson(prompt, prompt, fit.answers[prompt.ids]) for prompt in others]


def _train(fit: Fit, adapted: Any, name: str) -> dict[str, float]:
    config = fit.config
    change, keep = lessons_of(fit)
    rng = Random(fit.seed)
    own = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(own, lr=config.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config.steps))
    student = _Student(adapted, fit)
    changed = kept = 0.0
    for _ in tqdm(range(config.steps), desc=f"{name}, seed {fit.seed}", unit="step", disable=None, leave=False):
        drawn = [_draw(rng, lessons, config.pairs_per_step) for lessons in (change, keep)]
        optimiser.zero_grad()
        changed, kept = student.learn(drawn, (1.0, config.keep))
        optimiser.step()
        schedule.step()
    return {"last_loss_changed": changed, "last_loss_kept": kept}


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to a twentieth."""
    return min(1.0, (step + 1) / _WARM_UP) * max(0.05, 1 - step / steps)


def _draw(rng: Random, lessons: Sequence[Lesson], count: int) -> list[Lesson]:
    return rng.sample(lessons, min(count, len(lessons)))


def read_answer(model: HookedModel, lesson: Lesson) -> tuple[int, ...]:
    """The answer and the token that ends it, so that what follows the answer is learnt as well: of one that was cut the teacher's next token,
    whatever it is. Without it where the context has no room for it, as behind an answer that was cut there."""
    longest = max(len(lesson.student.ids), len(lesson.teacher.ids)) + len(lesson.answer)
    return with_end(model, lesson.answer) if longest < model.info.context else lesson.answer


class _Student:
    """The model in training, run without hooks."""

    def __init__(self, adapted: Any, fit: Fit):
        self.adapted, self.fit = adapted, fit

    def learn(self, groups: Sequence[Sequence[Lesson]], weights: Sequence[float]) -> tuple[float, ...]:
        """Adds the gradient of the weighted sum of the groups' divergences, and gives each: of the student from the teacher, the mean
        over the answers' tokens and what follows them, in nats.

        Lessons of like length run together, whichever group they are of.
        """
        read = [
            (lesson, read_answer(self.fit.model, lesson), group)
            for group, lessons in enumerate(groups)
            for lesson in lessons
        ]
        sizes = [sum(len(answer) for _, answer, own in read if own == group) for group in range(len(groups))]
        read.sort(key=lambda part: len(part[0].student.ids) + len(part[1]))
        totals = torch.zeros(len(groups))
        for start in range(0, len(read), _TOGETHER):
            part = read[start : start + _TOGETHER]
            apart = self._divergences([lesson for lesson, _, _ in part], [answer for _, answer, _ in part])
            group_of = torch.tensor([group for _, answer, group in part for _ in answer], device=apart.device)
            means = torch.stack([apart[group_of == group].sum() / size for group, size in enumerate(sizes)])
            (means * torch.tensor(weights, device=means.device)).sum().backward()
            totals += means.detach().cpu()
        return tuple(totals.tolist())

    def _divergences(self, lessons: Sequence[Lesson], answers: Sequence[Sequence[int]]) -> Float[Tensor, "token"]:
        with torch.no_grad():
            goal = self.fit.unedited.logits([lesson.teacher for lesson in lessons], answers).log_softmax(-1)
        prompts = [lesson.student for lesson in lessons]
        lengths = [len(prompt.ids) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        pad = self.fit.model.pad_id
        logits = [
            continuation_logits(self._forward, prompts[run], answers[run], pad)
            for run in shared_runs(self.fit.model, lengths)
        ]
        own = torch.cat(logits).log_softmax(-1)
        return torch.nn.functional.kl_div(own, goal, log_target=True, reduction="none").sum(-1)

    def _forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.adapted(input_ids=tokens.to(self.fit.model.device), use_cache=False).logits
        return logits


METHODS = (
    Method("low-rank", everywhere, usual_placebo),
    Method("low-rank-map", where_the_map_says, usual_placebo),
)
