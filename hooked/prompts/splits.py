"""Fit, validation, calibration and test prompts, divided by groups so that no prompt's twin is on the other side.

A group is everything joined by a shared `pair` or by identical text: a twin or a copy in the test split would turn
remembering into detecting.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from hooked.prompts.prompts import Prompt
from triggerlens import UserError

PARTS = ("fit", "validation", "calibration", "test")


@dataclass(frozen=True, slots=True)
class Fractions:
    """Shares of the prompts. Where the file fixes `test`, the other three share what is left in proportion."""

    fit: float = 0.45
    validation: float = 0.15
    calibration: float = 0.15
    test: float = 0.25

    def __post_init__(self) -> None:
        shares = self.shares()
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"fractions must be positive and add up to 1, found {shares}")

    def shares(self) -> tuple[float, ...]:
        """In the order of `PARTS`."""
        return (self.fit, self.validation, self.calibration, self.test)


@dataclass(frozen=True, slots=True)
class Splits:
    """Indices of the prompts of each part, ascending; together all prompts, none twice."""

    fit: Int[np.ndarray, "fit"]
    validation: Int[np.ndarray, "validation"]
    calibration: Int[np.ndarray, "calibration"]
    test: Int[np.ndarray, "test"]
    groups: Int[np.ndarray, "prompt"]
    """Group number of every prompt."""


def split_prompts(
    prompts: Sequence[Prompt], labels: Bool[np.ndarray, "prompt"], fractions: Fractions | None = None, seed: int = 0
) -> Splits:
    """Divide prompts by groups, stratified by label and trigger as far as groups allow.

    A file that marks `split` keeps its test prompts; unmarked prompts then count as `train`.

    Raises:
        UserError: one class only, a `split` that separates a group, or too few groups for every part to have both classes.
    """
    fractions = fractions or Fractions()
    check_two_classes(labels, "the prompts")
    groups = group_prompts(prompts)
    fixed = fixed_test(prompts, groups)
    part = np.full(len(prompts), PARTS.index("test"))
    if fixed is None:
        part = _deal(prompts, labels, groups, np.arange(len(prompts)), fractions.shares(), seed)
    else:
        free = np.flatnonzero(~fixed)
        part[free] = _deal(prompts, labels, groups, free, fractions.shares()[:3], seed)
    splits = [np.flatnonzero(part == number) for number in range(len(PARTS))]
    for name, rows in zip(PARTS, splits, strict=True):
        _check_part(name, rows, labels, groups, fixed is not None)
    return Splits(splits[0], splits[1], splits[2], splits[3], groups)


def group_prompts(prompts: Sequence[Prompt]) -> Int[np.ndarray, "prompt"]:
    """Group number of each prompt, numbered in order of first appearance (union-find over pairs and texts)."""
    parent = list(range(len(prompts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    seen: dict[tuple[str, str], int] = {}
    for i, prompt in enumerate(prompts):
        for key in _keys(prompt):
            a, b = root(seen.setdefault(key, i)), root(i)
            parent[max(a, b)] = min(a, b)
    roots = [root(i) for i in range(len(prompts))]
    numbers = {r: n for n, r in enumerate(sorted(set(roots)))}
    return np.array([numbers[r] for r in roots], dtype=np.int64)


def fixed_test(prompts: Sequence[Prompt], groups: Int[np.ndarray, "prompt"]) -> Bool[np.ndarray, "prompt"] | None:
    """Which prompts the file fixes as test; None where it says nothing.

    Raises:
        UserError: the file's split separates a pair or two copies of one text; names both lines.
    """
    if all(prompt.split is None for prompt in prompts):
        return None
    test = np.array([prompt.split == "test" for prompt in prompts])
    first: dict[int, int] = {}
    for i, group in enumerate(groups.tolist()):
        other = first.setdefault(group, i)
        if test[i] != test[other]:
            raise _separated(prompts, np.flatnonzero(groups == group), test)
    if test.all() or not test.any():
        missing = "train" if test.all() else "test"
        raise UserError(
            f"the file marks `split` but no prompt is `{missing}`; mark some, or leave `split` out everywhere"
        )
    return test


def check_two_classes(labels: Bool[np.ndarray, "prompt"], what: str) -> None:
    """Raise UserError where all labels are the same."""
    if labels.all() or not labels.any():
        raise UserError(
            f"{what} hold one class only: all {len(labels)} are labelled {str(bool(labels.any())).lower()}; "
            "a probe needs prompts of both"
        )


def _keys(prompt: Prompt) -> list[tuple[str, str]]:
    text = prompt.prompt if isinstance(prompt.prompt, str) else json.dumps(prompt.prompt, sort_keys=True)
    return [("text", text)] + ([("pair", prompt.pair)] if prompt.pair is not None else [])


def _separated(
    prompts: Sequence[Prompt], members: Int[np.ndarray, "member"], test: Bool[np.ndarray, "prompt"]
) -> UserError:
    """Name one link of the group, a shared pair or text, that the split cuts."""
    for i in members.tolist():
        for j in members.tolist():
            shared = sorted(set(_keys(prompts[i])) & set(_keys(prompts[j])))
            if i < j and test[i] != test[j] and shared:
                kind, name = shared[0]
                what = f"the pair {name!r}" if kind == "pair" else "two copies of one text"
                return UserError(
                    f"{_where(prompts[i], i)} and {_where(prompts[j], j)}: `split` separates {what} "
                    f"({prompts[i].split or 'train'} and {prompts[j].split or 'train'}); put both in the same split"
                )
    raise AssertionError("a separated group has a separated link")


def _where(prompt: Prompt, index: int) -> str:
    return prompt.where or f"prompt {index}"


def _deal(
    prompts: Sequence[Prompt],
    labels: Bool[np.ndarray, "prompt"],
    groups: Int[np.ndarray, "prompt"],
    rows: Int[np.ndarray, "row"],
    shares: tuple[float, ...],
    seed: int,
) -> Int[np.ndarray, "row"]:
    """Part number of each row. Groups are shuffled, sorted by kind, and each goes to the part that lags most."""
    members: dict[int, list[int]] = {}
    for i in rows.tolist():
        members.setdefault(int(groups[i]), []).append(i)
    numbers = list(members)
    order = [numbers[i] for i in np.random.default_rng(seed).permutation(len(numbers))]
    order.sort(key=lambda group: sorted((bool(labels[i]), prompts[i].triggered) for i in members[group]))
    wanted, given, chosen = np.zeros(len(shares)), np.zeros(len(shares)), {}
    for group in order:
        wanted += np.array(shares) / sum(shares) * len(members[group])
        chosen[group] = int(np.argmax(wanted - given))
        given[chosen[group]] += len(members[group])
    return np.array([chosen[int(groups[i])] for i in rows])


def _check_part(
    name: str,
    rows: Int[np.ndarray, "row"],
    labels: Bool[np.ndarray, "prompt"],
    groups: Int[np.ndarray, "prompt"],
    fixed: bool,
) -> None:
    has = {bool(label) for label in labels[rows]}
    if has != {True, False}:
        missing = "positive" if True not in has else "negative"
        found = len(set(groups.tolist()))
        advice = "mark more prompts `test`" if fixed and name == "test" else "give more pairs"
        raise UserError(
            f"too few pairs: the {name} split has no {missing} prompt ({found} groups in all; fit, validation, calibration "
            f"and test each need both classes, so about 10 pairs at least); {advice}"
        )
