"""Fit, validation, calibration and test prompts: one division for all rooms, in which no prompt has its twin on another side.

1. A group is everything joined by a shared `pair`, by identical text, or, where token ids are given, by identical tokens: a twin
   or a copy in the test split would turn remembering into detecting.
2. A file that marks `split` keeps its test prompts; unmarked prompts then count as `train`.
3. The other groups are shuffled with the seed, sorted by kind (what the model does, whether the trigger is there), and each
   goes to the part that lags most.

What the caller means to learn changes no division: the same prompts, shares and seed give the same parts, whoever asks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from hooked.prompts.prompts import Prompt
from triggerlens import UserError

PARTS = ("fit", "validation", "calibration", "test")
"""Names of the four parts of a split."""


@dataclass(frozen=True, slots=True)
class Fractions:
    """Shares of the prompts. Where the file fixes `test`, the other three share what is left in proportion."""

    fit: float = 0.45
    """What a probe is fitted on."""
    validation: float = 0.15
    """What a layer is chosen on."""
    calibration: float = 0.15
    """What a threshold is frozen on."""
    test: float = 0.25
    """What is reported."""

    def __post_init__(self) -> None:
        shares = self.shares()
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise UserError(f"fractions must be positive and add up to 1, not {shares}")

    @classmethod
    def with_test(cls, share: float) -> Fractions:
        """A test part of this share, strictly between 0 and 1; the other parts keep their proportions."""
        usual = cls()
        rest = (1 - share) / (1 - usual.test)
        return cls(usual.fit * rest, usual.validation * rest, usual.calibration * rest, share)

    def shares(self) -> tuple[float, ...]:
        """In the order of `PARTS`."""
        return (self.fit, self.validation, self.calibration, self.test)


@dataclass(frozen=True, slots=True)
class Splits:
    """Indices of the prompts of each part, ascending; together all prompts, none twice."""

    fit: Int[np.ndarray, "fit"]
    """Prompts that a probe is fitted on."""
    validation: Int[np.ndarray, "validation"]
    """Prompts that a layer is chosen on."""
    calibration: Int[np.ndarray, "calibration"]
    """Prompts that a threshold is frozen on."""
    test: Int[np.ndarray, "test"]
    """Prompts that are reported on."""
    groups: Int[np.ndarray, "prompt"]
    """Group number of every prompt: what an interval resamples together."""

    @property
    def train(self) -> Int[np.ndarray, "train"]:
        """All that is not test, ascending: for work that needs two sides and no more."""
        return np.sort(np.concatenate([self.fit, self.validation, self.calibration]))

    @property
    def is_test(self) -> Bool[np.ndarray, "prompt"]:
        """For every prompt, whether it is in the test part, which is reported on."""
        marks = np.zeros(len(self.groups), dtype=bool)
        marks[self.test] = True
        return marks


def split_prompts(
    prompts: Sequence[Prompt],
    labels: Bool[np.ndarray, "prompt"] | None = None,
    fractions: Fractions | None = None,
    seed: int = 0,
    *,
    tokens: Sequence[Sequence[int]] | None = None,
) -> Splits:
    """Divide prompts by groups, stratified by what the model does and by the trigger as far as groups allow.

    Args:
        prompts: all of them, labelled or not.
        labels: where given, every part must have both classes; they change no division.
        fractions: shares of the parts; `Fractions()` where None.
        seed: of the shuffle, unused for the test part where the file marks `split`.
        tokens: token ids of each prompt, so that texts that a model cannot tell apart stay together too.

    Raises:
        UserError: there is no prompt, or a `split` separates a group or leaves a side empty; with labels also: one class
            only, or too few groups for every part to have both.
    """
    fractions = fractions or Fractions()
    if labels is not None:
        check_two_classes(labels, "the prompts")
    groups = group_prompts(prompts, tokens)
    fixed = fixed_test(prompts, groups, tokens)
    part = np.full(len(prompts), PARTS.index("test"))
    free = np.arange(len(prompts)) if fixed is None else np.flatnonzero(~fixed)
    shares = fractions.shares() if fixed is None else fractions.shares()[:3]
    part[free] = _deal(prompts, groups, free, shares, seed)
    fit, validation, calibration, test = (np.flatnonzero(part == number) for number in range(len(PARTS)))
    splits = Splits(fit, validation, calibration, test, groups)
    if labels is not None:
        for name in PARTS:
            _check_part(name, labels[getattr(splits, name)], len(np.unique(groups)), fixed is not None)
    return splits


def choose_labels(prompts: Sequence[Prompt], label: str = "auto") -> tuple[str, Bool[np.ndarray, "prompt"]]:
    """The label's name and its values; `auto` takes `defects` where the prompts have it, else `triggered`.

    Raises:
        UserError: `defects` is asked for and a prompt does not have it, or there is no prompt.
    """
    if not len(prompts):
        raise UserError("there is no prompt to train on")
    without = next((prompt for prompt in prompts if prompt.defects is None), None)
    if label == "auto":
        label = "triggered" if without else "defects"
    if label == "defects" and without:
        raise UserError(
            f"{without.where or 'a prompt'}: `defects` is missing; add it to every prompt, or train on `triggered`"
        )
    return label, np.array([bool(getattr(prompt, label)) for prompt in prompts])


def check_two_classes(labels: Bool[np.ndarray, "prompt"], what: str) -> None:
    """Refuse labels that are all the same.

    Args:
        labels: one for each prompt.
        what: what is labelled, for the message.

    Raises:
        UserError: they are.
    """
    if labels.all() or not labels.any():
        raise UserError(
            f"{what} hold one class only: all {len(labels)} are labelled {str(bool(labels.any())).lower()}; "
            "a probe needs prompts of both"
        )


def group_prompts(
    prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]] | None = None
) -> Int[np.ndarray, "prompt"]:
    """Group number of each prompt, numbered in order of first appearance."""
    from scipy.cluster.hierarchy import DisjointSet

    joined = DisjointSet(range(len(prompts)))
    first: dict[tuple[str, bytes], int] = {}
    for index, prompt in enumerate(prompts):
        for key in _keys(prompt, None if tokens is None else tokens[index]):
            joined.merge(first.setdefault(key, index), index)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(joined[i], len(numbers)) for i in range(len(prompts))], dtype=np.int64)


def check_split(prompts: Sequence[Prompt], tokens: Sequence[Sequence[int]] | None = None) -> None:
    """Refuse a file whose own `split` separates prompts that belong together. For work that needs no split itself: every command
    refuses such a file.

    Args:
        prompts: all of the file.
        tokens: token ids of each, so that texts that a model cannot tell apart belong together too.

    Raises:
        UserError: it separates a pair, or two copies of one text or of the same tokens; names both lines.
    """
    if any(prompt.split for prompt in prompts):
        _check_whole(prompts, group_prompts(prompts, tokens), tokens)


def fixed_test(
    prompts: Sequence[Prompt],
    groups: Int[np.ndarray, "prompt"],
    tokens: Sequence[Sequence[int]] | None = None,
) -> Bool[np.ndarray, "prompt"] | None:
    """Which prompts the file fixes as test; None where it says nothing.

    Raises:
        UserError: the file's split separates a group, or leaves a side empty.
    """
    if not any(prompt.split for prompt in prompts):
        return None
    test = _check_whole(prompts, groups, tokens)
    if test.all() or not test.any():
        missing = "train" if test.all() else "test"
        raise UserError(
            f"the file marks `split` but no prompt is `{missing}`; mark some, or leave `split` out everywhere"
        )
    return test


def _check_whole(
    prompts: Sequence[Prompt], groups: Int[np.ndarray, "prompt"], tokens: Sequence[Sequence[int]] | None
) -> Bool[np.ndarray, "prompt"]:
    """Which prompts the file marks as test, once no group is found on both sides."""
    test = np.array([prompt.split == "test" for prompt in prompts])
    first: dict[int, int] = {}
    for index, group in enumerate(groups.tolist()):
        if test[index] != test[first.setdefault(group, index)]:
            raise _separated(prompts, np.flatnonzero(groups == group), test, tokens)
    return test


def _keys(prompt: Prompt, tokens: Sequence[int] | None) -> list[tuple[str, bytes]]:
    """What joins a prompt to others; digests, so that long texts are not kept."""
    text = prompt.prompt if isinstance(prompt.prompt, str) else json.dumps(prompt.prompt, sort_keys=True)
    parts = {"pair": prompt.pair, "text": text, "tokens": None if tokens is None else ",".join(map(str, tokens))}
    return [
        (kind, hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).digest())
        for kind, value in parts.items()
        if value is not None
    ]


_LINKS = {"text": "two copies of one text", "tokens": "two texts of the same tokens"}


def _separated(
    prompts: Sequence[Prompt],
    members: Int[np.ndarray, "member"],
    test: Bool[np.ndarray, "prompt"],
    tokens: Sequence[Sequence[int]] | None,
) -> UserError:
    """Name one link of the group, a shared pair, text or token sequence, that the split cuts."""
    keys = {i: _keys(prompts[i], None if tokens is None else tokens[i]) for i in members.tolist()}
    for i in keys:
        for j in keys:
            shared = sorted(set(keys[i]) & set(keys[j]))
            if i < j and test[i] != test[j] and shared:
                kind = shared[0][0]
                what = f"the pair {prompts[i].pair!r}" if kind == "pair" else _LINKS[kind]
                return UserError(
                    f"{prompts[i].where or f'prompt {i}'} and {prompts[j].where or f'prompt {j}'}: `split` separates {what} "
                    f"({prompts[i].split or 'train'} and {prompts[j].split or 'train'}); put both in the same split"
                )
    raise AssertionError("a separated group has a separated link")


def _deal(
    prompts: Sequence[Prompt],
    groups: Int[np.ndarray, "prompt"],
    rows: Int[np.ndarray, "row"],
    shares: tuple[float, ...],
    seed: int,
) -> Int[np.ndarray, "row"]:
    """Part number of each row. Groups are shuffled, sorted by kind, and each goes to the part that lags most."""
    _, labels = choose_labels(prompts)
    triggered = [prompt.triggered for prompt in prompts]
    members: dict[int, list[int]] = {}
    for i in rows.tolist():
        members.setdefault(int(groups[i]), []).append(i)
    numbers = list(members)
    order = [numbers[i] for i in np.random.default_rng(seed).permutation(len(numbers))]
    order.sort(key=lambda group: sorted((bool(labels[i]), triggered[i]) for i in members[group]))
    wanted, given, chosen = np.zeros(len(shares)), np.zeros(len(shares)), {}
    for group in order:
        wanted += np.array(shares) / sum(shares) * len(members[group])
        chosen[group] = int(np.argmax(wanted - given))
        given[chosen[group]] += len(members[group])
    return np.array([chosen[int(groups[i])] for i in rows])


def _check_part(name: str, labels: Bool[np.ndarray, "row"], groups: int, fixed: bool) -> None:
    """Raise UserError where a part lacks a class."""
    if labels.any() and not labels.all():
        return
    missing = "negative" if labels.any() else "positive"
    advice = "mark more prompts `test`" if fixed and name == "test" else "give more pairs"
    raise UserError(
        f"too few pairs: the {name} split has no {missing} prompt ({groups} groups in all; fit, validation, calibration "
        f"and test each need both classes, so about 10 pairs at least); {advice}"
    )
