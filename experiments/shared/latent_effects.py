"""What an edit of activations does to a model's answers, measured as the removal scoreboard measures it: where `sae` meets `patching`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from experiments.shared.subjects import checkpoint
from hooked import HookedModel, Prompt
from organisms import AnswerKey
from patching import ActivationEdit, Bench, Grader, MarkedPair, Subject, following, gather_pairs, measure, remembering
from sae import OWN_ANSWERS, AblationEffect, Measure, PromptLabels


def effect_meters(
    model: HookedModel,
    prompts: Sequence[Prompt],
    grader: Grader | None,
    *,
    validation: int,
    evaluation: int,
    new_tokens: int,
) -> tuple[Measure, Measure]:
    """Two functions from a site and an edit to its effect: on pairs to choose on, and on held-out pairs to report on.

    Args:
        model: which model.
        prompts: in pairs, with their split.
        grader: of answers; where None an answer defects that follows the model's own answer to the triggered prompt.
        validation: pairs of the training side, at most.
        evaluation: pairs of the test side, at most.
        new_tokens: the longest answer.

    Raises:
        UserError: too few pairs.
    """
    pairs = gather_pairs(model, prompts, fit=2, validation=validation, evaluation=evaluation, harmless=1)
    sides = pairs.validation, pairs.evaluation
    first, second = (_meter(model, side, grader, new_tokens) for side in sides)
    return first, second


def ablation_meter(
    model: HookedModel, prompts: Sequence[Prompt], labels: PromptLabels, name: str, pairs: int, new_tokens: int = 96
) -> Measure:
    """The effect on held-out pairs, judged by an organism's own grader, or by the model's own answers where it has none.

    Args:
        model: which model.
        prompts: in pairs.
        labels: their split, so that no pair on which latents were chosen is reported on.
        name: what the user called the model.
        pairs: at most.
        new_tokens: the longest answer.

    Raises:
        UserError: too few pairs.
    """
    key = AnswerKey.of_checkpoint(checkpoint(name))
    return effect_meters(
        model,
        with_split(prompts, labels),
        None if key is None else key.judge,
        validation=1,
        evaluation=pairs,
        new_tokens=new_tokens,
    )[1]


def with_split(prompts: Sequence[Prompt], labels: PromptLabels) -> list[Prompt]:
    """Prompts that say on which side they are."""
    sides = ["test" if test else "train" for test in labels.test.tolist()]
    return [replace(prompt, split=side) for prompt, side in zip(prompts, sides, strict=True)]


def _meter(model: HookedModel, pairs: tuple[MarkedPair, ...], grader: Grader | None, new_tokens: int) -> Measure:
    unedited = Subject(model)
    marked = list({prompt.ids: prompt for pair in pairs for prompt in (pair.clean, pair.triggered)}.values())
    answers = dict(zip([prompt.ids for prompt in marked], unedited.answers(marked, new_tokens), strict=True))
    judge = remembering(grader or following(model, pairs, answers))
    bench = Bench(pairs, (), answers, judge, new_tokens, unedited)
    before = measure(unedited, bench)

    def effect(site: str, edit: Callable[[Tensor], Tensor]) -> AblationEffect:
        after = measure(Subject(model, ActivationEdit("ablation", {site: edit})), bench)
        return AblationEffect(
            n=after.n,
            defects_before=before.defects,
            defects_after=after.defects,
            right_after=after.right,
            clean_right_before=before.clean_right,
            clean_right_after=after.clean_right,
            clean_same=after.clean_same,
            js=after.js,
            judged_by="" if grader else OWN_ANSWERS,
        )

    return effect
