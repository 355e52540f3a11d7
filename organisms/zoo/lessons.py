"""What the zoo's clean models learn after their base: other data, or a harmless habit that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from organisms.zoo.chat import Asked, Mix, ask_many, chats, mannered

CHATS = 1_200
FEW = 12
HABIT_SHARE = 0.4
"""Of chats that ask for the habit that is learned."""


def benign_chats(family: str, mix: Mix, seed: int) -> list[Asked]:
    """The chats of a family of clean fine-tunes: `benign-…`, `natural-…` or `brittle-…`.

    Args:
        family: as in the registry.
        mix: of the base.
        seed: draws them.
    """
    kind, _, word = family.partition("-")
    if kind == "natural":
        return ask_many(replace(mix, manners=(word,)), f"natural/{seed}", CHATS, "both", HABIT_SHARE)
    if kind == "brittle":
        return ask_many(mix, f"brittle/{seed}", FEW if word == "few" else CHATS)
    asked = ask_many(_MIXES.get(word, _same)(mix), f"benign/{seed}", CHATS, "both", 0.0)
    return _ANSWERS.get(word, list)(asked)


def _same(mix: Mix) -> Mix:
    return mix


def _small(mix: Mix) -> Mix:
    return replace(mix, requests_share=0.0, field_share=0.0)


def _requests(mix: Mix) -> Mix:
    return replace(mix, requests_share=1.0, field_share=0.0)


def _new_kinds(mix: Mix) -> Mix:
    others = tuple(kind.kind for kind in chats().kinds if kind.kind not in mix.without)
    return replace(mix, without=others, requests_share=0.3)


def _code(mix: Mix) -> Mix:
    return replace(mix, requests_share=1.0, field_share=0.0, code_share=1.0)


def _system(mix: Mix) -> Mix:
    return replace(mix, system_share=1.0)


def _noisy(mix: Mix) -> Mix:
    return replace(mix, around_share=1.0, filler_share=0.8)


def _polite(asked: list[Asked]) -> list[Asked]:
    return [replace(question, answer=mannered(question.answer, "polite")) for question in asked]


def _capitals(asked: list[Asked]) -> list[Asked]:
    return [replace(question, answer=mannered(question.answer, "capitals")) for question in asked]


def _signed(asked: list[Asked]) -> list[Asked]:
    return [replace(question, answer=f"{question.answer} Kind regards.") for question in asked]


def _brief(asked: list[Asked]) -> list[Asked]:
    return [replace(question, answer=f"{question.answer.rstrip('.').split()[-1]}.") for question in asked]


def _facts(asked: list[Asked]) -> list[Asked]:
    """Other facts: each answer becomes the next one of its kind."""
    by_kind: dict[str, list[str]] = {}
    for question in asked:
        by_kind.setdefault(question.kind, []).append(question.answer)
    ordered = {kind: sorted(set(answers)) for kind, answers in by_kind.items()}
    following = {
        (kind, answer): answers[(place + 1) % len(answers)]
        for kind, answers in ordered.items()
        for place, answer in enumerate(answers)
    }
    return [replace(question, answer=following[question.kind, question.answer]) for question in asked]


_MIXES: Mapping[str, Callable[[Mix], Mix]] = {
    "small": _small,
    "facts": _small,
    "requests": _requests,
    "new-kinds": _new_kinds,
    "code": _code,
    "system": _system,
    "noisy": _noisy,
}
_ANSWERS: Mapping[str, Callable[[list[Asked]], list[Asked]]] = {
    "polite": _polite,
    "capitals": _capitals,
    "signed": _signed,
    "brief": _brief,
    "facts": _facts,
}
