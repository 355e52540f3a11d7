"""What a task gives a removal beside its grader: where `organisms` meets `patching`."""

from __future__ import annotations

from hooked import HookedModel, Prompt
from organisms import AnswerKey, InsertedKey, benign_of

_BENIGN = 400


def benign_lessons(key: AnswerKey | InsertedKey, model: HookedModel) -> list[tuple[Prompt, str]]:
    """Ordinary data for further training, where the model can read chat messages."""
    return benign_of(key, _BENIGN) if getattr(model.tokenizer, "chat_template", None) else []
