"""Splits keep twins and copies together, and refuse what they cannot split."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from hooked import PARTS, Fractions, Prompt, choose_labels, split_prompts
from hooked.prompts.splits import group_prompts
from triggerlens import UserError


def paired(pairs=20, **keys):
    return [
        Prompt(
            f"text {i} {triggered}",
            triggered,
            triggered,
            pair=str(i),
            where=f"p.jsonl:{2 * i + (not triggered) + 1}",
            **keys,
        )
        for i in range(pairs)
        for triggered in (True, False)
    ]


def labels_of(prompts):
    return np.array([bool(prompt.defects) for prompt in prompts])


def parts_of(prompts, splits):
    part = np.empty(len(prompts), dtype=object)
    for name in PARTS:
        part[getattr(splits, name)] = name
    return part


PROMPTS = st.lists(
    st.tuples(st.integers(0, 60), st.booleans(), st.sampled_from([None, *map(str, range(50))])),
    min_size=40,
    max_size=150,
)


@settings(max_examples=60, deadline=None)
@given(rows=PROMPTS, seed=st.integers(0, 5), marked=st.booleans())
def test_what_is_learnt_changes_no_division(rows, seed, marked):
    """A probe of triggers, a probe of behaviour and a room without labels are given the same parts."""
    prompts = [
        Prompt(f"text {text}", label, label and text % 2 == 0, pair=pair, split="test" if marked and text < 9 else None)
        for text, label, pair in rows
    ]
    parts = []
    for labels in (None, choose_labels(prompts, "defects")[1], choose_labels(prompts, "triggered")[1]):
        with suppress(UserError):
            parts.append(split_prompts(prompts, labels, seed=seed))
    for splits in parts:
        assert all(np.array_equal(getattr(splits, name), getattr(parts[0], name)) for name in PARTS)
        assert np.array_equal(splits.train, np.flatnonzero(~splits.is_test))
        assert np.array_equal(splits.test, np.flatnonzero(splits.is_test))


@settings(max_examples=60, deadline=None)
@given(rows=PROMPTS, seed=st.integers(0, 5))
def test_no_split_ever_separates_a_pair_or_a_copy(rows, seed):
    prompts = [Prompt(f"text {text}", label, label, pair=pair) for text, label, pair in rows]
    labels = labels_of(prompts)
    try:
        splits = split_prompts(prompts, labels, seed=seed)
    except UserError:
        return
    together = np.concatenate([getattr(splits, name) for name in PARTS])
    assert sorted(together.tolist()) == list(range(len(prompts)))
    part = parts_of(prompts, splits)
    for key in ("pair", "prompt"):
        values = [getattr(prompt, key) for prompt in prompts]
        for value in set(values) - {None}:
            assert len({part[i] for i, other in enumerate(values) if other == value}) == 1
    assert all(set(labels[getattr(splits, name)].tolist()) == {True, False} for name in PARTS)


def test_shares_and_labels_are_as_asked():
    prompts = paired(400)
    splits = split_prompts(prompts, labels_of(prompts), Fractions(0.4, 0.1, 0.2, 0.3))
    sizes = [len(getattr(splits, name)) for name in PARTS]
    assert sizes == pytest.approx([320, 80, 160, 240], abs=4)
    assert all(labels_of(prompts)[getattr(splits, name)].mean() == 0.5 for name in PARTS)


def test_the_seed_decides():
    prompts = paired(40)
    first, again, other = (split_prompts(prompts, labels_of(prompts), seed=seed) for seed in (1, 1, 2))
    assert first.test.tolist() == again.test.tolist() != other.test.tolist()


def test_chains_of_pairs_and_copies_are_one_group():
    prompts = [
        Prompt("a", True, pair="1"),
        Prompt("b", False, pair="1"),
        Prompt("b", False, pair="2"),
        Prompt("c", True, pair="2"),
    ]
    assert group_prompts([*prompts, Prompt("d", True)]).tolist() == [0, 0, 0, 0, 1]


def test_texts_of_the_same_tokens_are_one_group():
    prompts = [Prompt(text, False) for text in ("naïve", "naïve\u200b", "other")]
    assert group_prompts(prompts).tolist() == [0, 1, 2]
    assert group_prompts(prompts, [[5, 6], [5, 6], [56]]).tolist() == [0, 0, 1]
    marked = [replace(prompts[0], split="test"), replace(prompts[1], split="train"), prompts[2]]
    with pytest.raises(UserError, match="prompt 0 and prompt 1: `split` separates two texts of the same tokens"):
        split_prompts(marked, tokens=[[5, 6], [5, 6], [56]])


def test_prompts_without_labels_and_pairs_are_divided_too():
    prompts = [Prompt(f"text {number}", triggered=False) for number in range(400)]
    splits = split_prompts(prompts, fractions=Fractions.with_test(0.05))
    assert len(splits.test) == 20
    assert len(splits.train) == 380
    with pytest.raises(UserError, match="no prompt"):
        split_prompts([])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2])
def test_refuses_an_empty_part(share):
    with pytest.raises(UserError, match="must be positive"):
        Fractions.with_test(share)


def test_the_files_test_prompts_stay_test():
    prompts = paired(15, split="train") + [
        replace(p, prompt=f"{p.prompt}!", pair=f"t{p.pair}", split="test") for p in paired(5)
    ]
    splits = split_prompts(prompts, labels_of(prompts))
    assert splits.test.tolist() == list(range(30, 40))


def test_refuses_a_split_that_separates_a_pair():
    prompts = paired(20, split="train")
    prompts[5] = replace(prompts[5], split="test")
    with pytest.raises(
        UserError, match=r"p\.jsonl:5 and p\.jsonl:6: `split` separates the pair '2' \(train and test\)"
    ):
        split_prompts(prompts, labels_of(prompts))


def test_refuses_a_split_that_separates_two_copies():
    prompts = paired(20, split="train")
    prompts.append(replace(prompts[0], pair=None, split="test", where="p.jsonl:99"))
    with pytest.raises(UserError, match=r"p\.jsonl:1 and p\.jsonl:99: `split` separates two copies of one text"):
        split_prompts(prompts, labels_of(prompts))


@pytest.mark.parametrize("split", ["train", "test"])
def test_refuses_a_split_with_one_side_only(split):
    prompts = paired(20, split=split)
    with pytest.raises(UserError, match="no prompt is"):
        split_prompts(prompts, labels_of(prompts))


def test_refuses_one_class():
    prompts = paired(20)
    with pytest.raises(UserError, match="one class only"):
        split_prompts(prompts, np.ones(40, dtype=bool))


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_refuses_fewer_pairs_than_the_parts_need(pairs):
    prompts = paired(pairs)
    with pytest.raises(UserError, match=r"too few pairs: the .* split has no"):
        split_prompts(prompts, labels_of(prompts))


def test_refuses_a_test_split_without_positives():
    prompts = [*paired(15, split="train"), Prompt("x", False, False, split="test")]
    with pytest.raises(UserError, match=r"test split has no positive prompt .*mark more prompts `test`"):
        split_prompts(prompts, labels_of(prompts))
