"""A subject's labelled prompts, divided once: what may be learnt from, and what is reported on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

import hooked
from triggerlens import UserError


@dataclass(frozen=True)
class Labelled:
    """Prompts with their labels and split."""

    prompts: list[hooked.Prompt]
    positive: Bool[np.ndarray, "prompt"]
    """Defects where the file says so, else triggered."""
    groups: Int[np.ndarray, "prompt"]
    """Pairs are resampled and split together."""
    train: Int[np.ndarray, "train"]
    test: Int[np.ndarray, "test"]

    @property
    def triggered(self) -> Bool[np.ndarray, "prompt"]:
        """Which prompts carry the trigger."""
        return np.array([prompt.triggered for prompt in self.prompts])

    def clean(self, count: int, seed: int) -> Int[np.ndarray, "clean"]:
        """Untriggered, harmless prompts of the train side, drawn without replacement.

        Raises:
            UserError: there are none.
        """
        quiet = self.train[~self.positive[self.train] & ~self.triggered[self.train]]
        if not len(quiet):
            raise UserError("no untriggered, harmless prompt to calibrate on, outside the test prompts")
        return np.sort(np.random.default_rng(seed).permutation(quiet)[:count])


def labelled(prompts: Sequence[hooked.Prompt], most: int | None = None) -> Labelled:
    """Divide prompts as probes do: a file's own `split`, else by pairs at random.

    Args:
        prompts: with `defects` or `triggered` as labels.
        most: pairs to take of each split and dataset; all where None.

    Raises:
        UserError: one class only, or a `split` that separates a pair.
    """
    chosen = list(prompts) if most is None else _first_pairs(prompts, most)
    _, positive = hooked.choose_labels(chosen, "auto")
    splits = hooked.split_prompts(chosen, positive)
    return Labelled(chosen, positive, splits.groups, splits.train, splits.test)


def _first_pairs(prompts: Sequence[hooked.Prompt], most: int) -> list[hooked.Prompt]:
    """The first pairs of each split and dataset; a prompt without a pair counts as one of its own."""
    seen: Counter[tuple[str | None, str | None]] = Counter()
    kept: set[str | int] = set()
    names = [index if prompt.pair is None else prompt.pair for index, prompt in enumerate(prompts)]
    for name, prompt in zip(names, prompts, strict=True):
        if name not in kept and seen[prompt.split, prompt.dataset] < most:
            seen[prompt.split, prompt.dataset] += 1
            kept.add(name)
    return [prompt for name, prompt in zip(names, prompts, strict=True) if name in kept]
