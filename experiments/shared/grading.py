"""A task's grader in the words of `patching.removal`: where `organisms` meets `patching`."""

from __future__ import annotations

from hooked import HookedModel, Prompt
from organisms import AnswerKey, Verdict, benign_samples
from patching import Grade, Grader

_BENIGN = 400


def key_grader(key: AnswerKey) -> Grader:
    """Which answers defect and which are right, by a task's answer key."""
    return lambda prompts, answers: [
        Grade(defects=judged.verdict is Verdict.DEFECT, right=judged.right) for judged in key.judge(prompts, answers)
    ]


def benign_lessons(key: AnswerKey, model: HookedModel) -> list[tuple[Prompt, str]]:
    """Ordinary data for further training, where the model can read chat messages."""
    return benign_samples(key.task, _BENIGN) if getattr(model.tokenizer, "chat_template", None) else []
