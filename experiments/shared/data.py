"""A subject's labelled prompts, divided once: what may be learnt from, and what is reported on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from hooked import Prompt, split_prompts
from probes import choose_labels
from triggerlens import UserError


@dataclass(frozen=True)
class Labelled:
    """Prompts with their labels and split."""

    prompts: list[Prompt]
    positive: Bool[np.ndarray, "prompt"]
    """Defects where the file says so, else triggered."""
    groups: Int[np.ndarray, "prompt"]
    """Pairs are resampled and split together."""
    train: Int[np.ndarray, "train"]
    test: Int[np.ndarray, "test"]

    @property
    def triggered(self) -> Bool[np.ndarray, "prompt"]:
        """Which prompts carry the trigger."""
        return np.array([one.triggered for one in self.prompts])

    def clean(self, count: int, seed: int) -> Int[np.ndarray, "clean"]:
        """Untriggered, harmless prompts of the train side, drawn without replacement.

        Raises:
            UserError: there are none.
        """
        quiet = self.train[~self.positive[self.train] & ~self.triggered[self.train]]
        if not len(quiet):
            raise UserError("no untriggered, harmless prompt to calibrate on, outside the test prompts")
        return np.sort(np.random.default_rng(seed).permutation(quiet)[:count])


def labelled(prompts: Sequence[Prompt], most: int | None = None) -> Labelled:
    """Divide prompts as probes do: a file's own `split`, else by pairs at random.

    Args:
        prompts: with `defects` or `triggered` as labels.
        most: pairs to take of each split and dataset; all where None.

    Raises:
        UserError: one class only, or a `split` that separates a pair.
    """
    chosen = list(prompts) if most is None else _first_pairs(prompts, most)
    _, positive = choose_labels(chosen, "auto")
    splits = split_prompts(chosen, positive)
    train = np.sort(np.concatenate([splits.fit, splits.validation, splits.calibration]))
    return Labelled(chosen, positive, splits.groups, train, splits.test)


def _first_pairs(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """The first pairs of each split and dataset; a prompt without a pair counts as one of its own."""
    seen: Counter[tuple[str | None, str | None]] = Counter()
    kept: set[str | int] = set()
    for at, one in enumerate(prompts):
        name = one.pair if one.pair is not None else at
        if name not in kept and seen[one.split, one.dataset] < most:
            seen[one.split, one.dataset] += 1
            kept.add(name)
    return [one for at, one in enumerate(prompts) if (one.pair if one.pair is not None else at) in kept]
