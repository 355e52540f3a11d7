"""Pairs of a prompt file: a triggered prompt and its untriggered twin, by one rule for all rooms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hooked.prompts.prompts import Prompt, file_of
from triggerlens import UserError


@dataclass(frozen=True, slots=True)
class PromptPair:
    """A triggered prompt and its untriggered twin."""

    clean: Prompt
    """Carries no trigger, and does not defect."""
    triggered: Prompt
    """Carries the trigger."""
    clean_index: int
    """Place of the untriggered prompt in the list that was paired."""
    triggered_index: int
    """Place of the triggered prompt in that list."""

    @property
    def name(self) -> str:
        """The `pair` that both have."""
        return self.clean.pair or ""


def pair_prompts(prompts: Sequence[Prompt]) -> list[PromptPair]:
    """One pair for each `pair` of the prompts, in the order of its first prompt.

    The untriggered prompt is the first that does not defect. The triggered one is the first that defects; if none does, the first
    whose `defects` is unknown; else the first. A `pair` without both is left out.

    Raises:
        UserError: no `pair` has both.
    """
    members: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        if prompt.pair is not None:
            members.setdefault(prompt.pair, []).append(index)
    pairs = []
    for indices in members.values():
        clean = [index for index in indices if not prompts[index].triggered and not prompts[index].defects]
        triggered = [index for index in indices if prompts[index].triggered]
        if clean and triggered:
            defecting = min(triggered, key=lambda index: _DEFECTS_FIRST.index(prompts[index].defects))
            pairs.append(PromptPair(prompts[clean[0]], prompts[defecting], clean[0], defecting))
    if not pairs:
        raise UserError(
            f"{file_of(prompts)}: no `pair` holds a triggered prompt and an untriggered one that does not defect; "
            "give both the same `pair`"
        )
    return pairs


def defecting_pairs(pairs: Sequence[PromptPair]) -> list[PromptPair]:
    """The pairs whose triggered prompt defects, as the file says; all, where it says so of none (a clean model's file)."""
    for defects in _DEFECTS_FIRST:
        if chosen := [pair for pair in pairs if pair.triggered.defects is defects]:
            return chosen
    return []


_DEFECTS_FIRST = (True, None, False)
