"""The prompts of a removal: pairs with the place of the trigger in each, split so that nothing is tuned on what is reported.

1. A pair is an untriggered and a triggered prompt; where the file says which defect, only pairs that do count.
2. Where the file has a split, edits are fitted on `train` and reported on `test`; otherwise half the pairs, drawn with the
   seed, go to each side. A pair is never divided.
3. Some of the fitting side is kept back to rank methods on; the reporting side is never used for a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from hooked import HookedModel, Prompt
from patching.alignment import align
from triggerlens import UserError

LEAST_PAIRS = 4

Answers = Mapping[tuple[int, ...], tuple[int, ...]]
"""The unedited model's greedy answer to each prompt, both as token ids."""


@dataclass(frozen=True)
class Row:
    """One prompt, tokenized."""

    prompt: Prompt
    ids: tuple[int, ...]
    places: tuple[int, ...] = ()
    """Positions of the tokens in which it differs from its twin."""


@dataclass(frozen=True)
class Case:
    """A pair."""

    clean: Row
    triggered: Row


@dataclass(frozen=True)
class Cases:
    """All that a removal is fitted and measured on."""

    fit: tuple[Case, ...]
    validation: tuple[Case, ...]
    """Of the fitting side: methods are ranked on it."""
    evaluation: tuple[Case, ...]
    harmless_fit: tuple[Case, ...]
    """Pairs whose triggered prompt does not defect, where the file has such."""
    harmless_evaluation: tuple[Case, ...]
    by: str
    """How the two sides were told apart, in words."""

    @property
    def sizes(self) -> dict[str, int]:
        """Pairs in each part."""
        return {name: len(part) for name, part in vars(self).items() if isinstance(part, tuple)}


def gather_cases(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    fit: int,
    validation: int,
    evaluation: int,
    harmless: int,
    seed: int = 0,
) -> Cases:
    """Pair, split and tokenize.

    Args:
        model: the model.
        prompts: the prompt file.
        fit, validation, evaluation: the most pairs of each part.
        harmless: the most pairs on each side whose triggered prompt does not defect.
        seed: draws the pairs of each part.

    Raises:
        UserError: the file has too few pairs.
    """
    pairs = pairs_of(prompts)
    fitted, reported, by = _sides(pairs, seed)
    defecting = [_loud(side, pairs) for side in (fitted, reported)]
    marked = {id(triggered) for side in defecting for _, triggered in side}
    quiet = [[pair for pair in side if id(pair[1]) not in marked] for side in (fitted, reported)]
    kept = min(validation, len(defecting[0]) // 3)
    parts = [
        defecting[0][kept : kept + fit],
        defecting[0][:kept],
        defecting[1][:evaluation],
        quiet[0][:harmless],
        quiet[1][:harmless],
    ]
    if len(parts[0]) < 2 or not parts[1] or not parts[2]:
        raise UserError(
            f"{_place(prompts)}: {len(defecting[0])} pairs to fit on and {len(defecting[1])} to report on are too few; give at "
            f"least {LEAST_PAIRS} of each"
        )
    fit_side, ranked, reported_side, *rest = (_tokenized(model, part) for part in parts)
    return Cases(fit_side, ranked, reported_side, rest[0], rest[1], by)


def pairs_of(prompts: Sequence[Prompt]) -> list[tuple[Prompt, Prompt]]:
    """The (untriggered, triggered) prompts of each `pair` that has both, in the order of the file.

    Raises:
        UserError: there is none.
    """
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        if prompt.pair is not None:
            groups.setdefault(prompt.pair, []).append(prompt)
    found = []
    for members in groups.values():
        clean = [prompt for prompt in members if not prompt.triggered]
        triggered = [prompt for prompt in members if prompt.triggered]
        if clean and triggered:
            found.append((clean[0], triggered[0]))
    if not found:
        raise UserError(
            f"{_place(prompts)}: no `pair` holds a triggered and an untriggered prompt; give both the same `pair`"
        )
    return found


def _loud(side: list[tuple[Prompt, Prompt]], all_pairs: list[tuple[Prompt, Prompt]]) -> list[tuple[Prompt, Prompt]]:
    """Pairs whose triggered prompt alone defects, as the file says; all, where it says so of none (a clean model's file)."""
    if not any(triggered.defects for _, triggered in all_pairs):
        return side
    return [(clean, triggered) for clean, triggered in side if triggered.defects and not clean.defects]


def _sides(
    pairs: list[tuple[Prompt, Prompt]], seed: int
) -> tuple[list[tuple[Prompt, Prompt]], list[tuple[Prompt, Prompt]], str]:
    shuffled = pairs[:]
    Random(seed).shuffle(shuffled)
    splits = {prompt.split for pair in pairs for prompt in pair}
    if splits == {"train", "test"}:
        sides = [[pair for pair in shuffled if {p.split for p in pair} == {name}] for name in ("train", "test")]
        return sides[0], sides[1], "the file's own split, by pair"
    half = len(shuffled) // 2
    return shuffled[:half], shuffled[half:], f"half of the pairs each, drawn with seed {seed}"


def _tokenized(model: HookedModel, pairs: Sequence[tuple[Prompt, Prompt]]) -> tuple[Case, ...]:
    cases = []
    for clean, triggered in pairs:
        one, other = (tuple(prompt.ids) for prompt in model.tokenize([clean, triggered]))
        try:
            places = trigger_places(one, other), trigger_places(other, one)
        except UserError as error:
            raise UserError(f"{triggered.where or f'pair {triggered.pair}'}: {error}") from error
        cases.append(Case(Row(clean, one, places[0]), Row(triggered, other, places[1])))
    return tuple(cases)


def trigger_places(ids: tuple[int, ...], twin: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of tokens that the twin does not have; none where the twin has all of them and more.

    Raises:
        UserError: the two cannot be aligned.
    """
    return tuple(at for at, differs in enumerate(align(ids, twin).differs) if differs)


def _place(prompts: Sequence[Prompt]) -> str:
    return prompts[0].where.rsplit(":", 1)[0] if prompts and prompts[0].where else "the prompts"
