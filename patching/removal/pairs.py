"""The prompts of a removal: pairs with the place of the trigger in each, divided so that nothing is tuned on what is reported.

1. A pair is an untriggered and a triggered prompt (`hooked.pair_prompts`); where the file says which defect, only pairs that do
   count.
2. Edits are reported on the test prompts of the one split (`hooked.split_prompts`), and fitted on the others.
3. Pairs of the same tokens count once, whatever they are called.
4. Some of the fitting side is kept back to rank methods on, and shares no prompt with what is fitted on; the reporting side is
   never used for a choice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from hooked import (
    HookedModel,
    Prompt,
    PromptPair,
    contradictions,
    defecting_pairs,
    file_of,
    group_prompts,
    pair_prompts,
    split_prompts,
)
from patching.alignment import align
from patching.minimal import PairDifference, pair_difference
from triggerlens import UserError

LEAST_PAIRS = 4

Answers = Mapping[tuple[int, ...], tuple[int, ...]]
"""The unedited model's greedy answer to each prompt, both as token ids."""


@dataclass(frozen=True)
class MarkedPrompt:
    """One prompt, tokenized, with the place of the trigger."""

    prompt: Prompt
    """As the file has it."""
    ids: tuple[int, ...]
    """Its token ids."""
    places: tuple[int, ...] = ()
    """Positions of the tokens in which it differs from its twin."""


@dataclass(frozen=True)
class MarkedPair:
    """An untriggered prompt and its triggered twin."""

    clean: MarkedPrompt
    """Without the trigger."""
    triggered: MarkedPrompt
    """With it."""


@dataclass(frozen=True)
class RemovalPairs:
    """All that a removal is fitted and measured on."""

    fit: tuple[MarkedPair, ...]
    """What methods are fitted on: pairs whose triggered prompt defects."""
    validation: tuple[MarkedPair, ...]
    """Of the fitting side: methods are ranked on it."""
    evaluation: tuple[MarkedPair, ...]
    """Held-out pairs, on which everything is reported."""
    harmless_fit: tuple[MarkedPair, ...]
    """Pairs whose triggered prompt does not defect, where the file has such."""
    harmless_evaluation: tuple[MarkedPair, ...]
    """Such pairs among the held-out ones."""
    split: str
    """How the two sides were told apart, in words."""
    notes: tuple[str, ...] = ()
    """What a reader must know of the labels."""

    @property
    def difference(self) -> PairDifference:
        """By how much the pairs that defect differ."""
        every = (*self.fit, *self.validation, *self.evaluation)
        return pair_difference([(pair.clean.ids, pair.triggered.ids) for pair in every])

    @property
    def sizes(self) -> dict[str, int]:
        """Pairs in each part."""
        return {name: len(part) for name, part in vars(self).items() if isinstance(part, tuple) and name != "notes"}

    @property
    def prompts(self) -> list[MarkedPrompt]:
        """Every prompt once, in the order of the parts."""
        return list({prompt.ids: prompt for part in self.parts for prompt in both(part)}.values())

    @property
    def parts(self) -> tuple[tuple[MarkedPair, ...], ...]:
        """Of fit, validation, evaluation, and of what is harmless."""
        return self.fit, self.validation, self.evaluation, self.harmless_fit, self.harmless_evaluation


def both(pairs: Sequence[MarkedPair]) -> list[MarkedPrompt]:
    """The two prompts of each pair, the untriggered one first."""
    return [prompt for pair in pairs for prompt in (pair.clean, pair.triggered)]


def gather_pairs(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    fit: int,
    validation: int,
    evaluation: int,
    harmless: int,
    seed: int = 0,
) -> RemovalPairs:
    """Pair, split and tokenize.

    Args:
        model: the model.
        prompts: the prompt file.
        fit, validation, evaluation: the most pairs of each part.
        harmless: the most pairs on each side whose triggered prompt does not defect.
        seed: of the split where the file marks none, and of the draw of the pairs of each part.

    Raises:
        UserError: the file has too few pairs, or its `split` separates a pair or two texts of the same tokens.
    """
    tokens = [row.ids for row in model.tokenize(prompts)]
    fitted, reported = _sides(prompts, seed, tokens)
    defecting = {pair.name for pair in defecting_pairs(pair_prompts(prompts))}
    (loud, quiet), (reporting, quiet_reporting) = (_once(side, defecting, tokens) for side in (fitted, reported))
    ranked, fitting, quiet_fitting = _apart(loud, quiet, tokens, min(validation, len(loud) // 3))
    parts = (fitting[:fit], ranked, reporting[:evaluation], quiet_fitting[:harmless], quiet_reporting[:harmless])
    if fit < 2:
        raise UserError(f"--fit-pairs {fit}: must be at least 2")
    if len(parts[0]) < 2 or not parts[1] or not parts[2]:
        raise UserError(
            f"{file_of(prompts)}: {len(loud)} pairs to fit on and {len(reporting)} to report on are too few; give at least "
            f"{LEAST_PAIRS} of each, of which not all share a prompt"
        )
    copies = len(fitted) + len(reported) - sum(map(len, (loud, quiet, reporting, quiet_reporting)))
    left_out = f"{copies} pairs are copies of others, to the last token, and are left out" if copies else None
    notes = tuple(note for note in (contradictions(prompts, tokens), left_out) if note)
    fit_side, chosen_on, reported_on, quiet_fit, quiet_reported = (_marked(tokens, part) for part in parts)
    words = _in_words(prompts, seed)
    return RemovalPairs(fit_side, chosen_on, reported_on, quiet_fit, quiet_reported, words, notes)


def _sides(
    prompts: Sequence[Prompt], seed: int, tokens: Sequence[Sequence[int]] | None = None
) -> tuple[list[PromptPair], list[PromptPair]]:
    """The pairs to fit on and those to report on, each side in an order drawn with the seed."""
    pairs = {pair.name: pair for pair in pair_prompts(prompts)}
    is_test = split_prompts(prompts, seed=seed, tokens=tokens).is_test
    names = list(dict.fromkeys(prompt.pair for prompt in prompts if prompt.pair is not None))
    Random(seed).shuffle(names)
    shuffled = [pairs[name] for name in names if name in pairs]
    fitted, reported = ([pair for pair in shuffled if is_test[pair.clean_index] == side] for side in (False, True))
    return fitted, reported


def _once(
    side: Sequence[PromptPair], defecting: Collection[str], tokens: Sequence[Sequence[int]]
) -> tuple[list[PromptPair], list[PromptPair]]:
    """The pairs of a side that defect, and the others; of pairs of the same tokens the first alone, one that defects where there is one."""
    parts = [[pair for pair in side if (pair.name in defecting) == loud] for loud in (True, False)]
    first: dict[tuple[tuple[int, ...], ...], str] = {}
    for pair in (pair for part in parts for pair in part):
        first.setdefault(tuple(tuple(tokens[index]) for index in (pair.clean_index, pair.triggered_index)), pair.name)
    kept = set(first.values())
    loud, quiet = ([pair for pair in part if pair.name in kept] for part in parts)
    return loud, quiet


def _apart(
    loud: Sequence[PromptPair], quiet: Sequence[PromptPair], tokens: Sequence[Sequence[int]], count: int
) -> tuple[list[PromptPair], list[PromptPair], list[PromptPair]]:
    """Pairs to rank on, at most `count`, and pairs to fit on, which defect or do not: those that share a prompt are never in both."""
    every = [*loud, *quiet]
    groups = group_prompts(
        [prompt for pair in every for prompt in (pair.clean, pair.triggered)],
        [tokens[index] for pair in every for index in (pair.clean_index, pair.triggered_index)],
    )
    group_of = {pair.name: int(group) for pair, group in zip(every, groups[::2], strict=True)}
    ranked: set[int] = set()
    for pair in loud:
        if sum(group_of[other.name] in ranked for other in loud) >= count:
            break
        ranked.add(group_of[pair.name])
    fitting, harmless = ([pair for pair in part if group_of[pair.name] not in ranked] for part in (loud, quiet))
    return [pair for pair in loud if group_of[pair.name] in ranked][:count], fitting, harmless


def _in_words(prompts: Sequence[Prompt], seed: int) -> str:
    if any(prompt.split for prompt in prompts):
        return "the file's own split, by pair"
    return f"a quarter of the pairs to report on, drawn with seed {seed}"


def _marked(tokens: Sequence[Sequence[int]], pairs: Sequence[PromptPair]) -> tuple[MarkedPair, ...]:
    marked = []
    for pair in pairs:
        clean, triggered = (tuple(tokens[index]) for index in (pair.clean_index, pair.triggered_index))
        try:
            places = trigger_places(clean, triggered), trigger_places(triggered, clean)
        except UserError as error:
            raise UserError(f"{pair.triggered.where or f'pair {pair.name}'}: {error}") from error
        sides = MarkedPrompt(pair.clean, clean, places[0]), MarkedPrompt(pair.triggered, triggered, places[1])
        marked.append(MarkedPair(*sides))
    return tuple(marked)


def trigger_places(ids: tuple[int, ...], twin: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of tokens that the twin does not have; none where the twin has all of them and more.

    Raises:
        UserError: the two cannot be aligned.
    """
    return tuple(position for position, differs in enumerate(align(ids, twin).differs) if differs)
