"""What a task gives a removal beside its grader: where `organisms` meets `patching`."""

from __future__ import annotations

from hooked import HookedModel, Prompt
from organisms import AnswerKey, benign_samples

_BENIGN = 400


def benign_lessons(key: AnswerKey, model: HookedModel) -> list[tuple[Prompt, str]]:
    """Ordinary data for further training, where the model can read chat messages."""
    return benign_samples(key.task, _BENIGN) if getattr(model.tokenizer, "chat_template", None) else []
