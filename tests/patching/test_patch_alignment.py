"""Alignment of prompts of unequal length."""

import pytest
from hypothesis import assume, given, strategies as st

from patching import align, alignment_table, given_alignment
from patching.trace.landmarks import landmarks
from triggerlens import UserError

ids = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(before=ids, middle=ids, other=st.lists(st.integers(10, 14), max_size=12), after=ids)
def test_what_both_have_is_matched_with_itself(before, middle, other, after):
    middle = [token + 5 for token in middle]  # the difference shares no token with what surrounds it
    patched, source = before + middle + after, before + other + after
    alignment = align(patched, source)
    assert len(alignment.counterparts) == len(patched)
    assert all(position is not None and 0 <= position < len(source) for position in alignment.counterparts)
    for position in range(len(before)):
        assert alignment.counterparts[position] == position
    for position in range(1, len(after) + 1):
        assert alignment.counterparts[-position] == len(source) - position
    for token, position, differs, inserted in zip(
        patched, alignment.counterparts, alignment.differs, alignment.inserted, strict=True
    ):
        assert differs == (inserted or source[position] != token)
    assert sum(alignment.inserted) == max(0, len(patched) - len(source))


@given(rows=st.integers(1, 10).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 2), min_size=n, max_size=n)] * 2)))
def test_prompts_of_equal_length_are_matched_position_by_position(rows):
    assume(rows[0] != rows[1])
    alignment = align(*rows)
    assert alignment.counterparts == tuple(range(len(rows[0])))
    assert alignment.differs == tuple(first != second for first, second in zip(*rows, strict=True))


@given(before=ids, extra=ids, after=ids)
def test_nothing_before_the_first_difference_can_change(before, extra, after):
    for patched, source in (
        ([*before, 9, *extra, *after], before + after),
        (before + after, [*before, 9, *extra, *after]),
    ):
        unchanged = align(patched, source).unchanged
        assert patched[:unchanged] == source[:unchanged]


def test_roles_and_neighbours_of_an_insertion():
    alignment = align([1, 2, 7, 8, 3, 4], [1, 2, 3, 4])
    assert alignment.roles == ("before", "before", "trigger", "trigger", "after", "after")
    assert alignment.counterparts == (0, 1, 1, 1, 2, 3)
    assert align([1, 2, 7, 8, 3, 4], [1, 2, 3, 4], "skip").counterparts == (0, 1, None, None, 2, 3)
    kinds = [row[3] for row in alignment_table(alignment, list("abxxcd"), list("abcd"))]
    assert kinds == ["same", "same", "inserted", "inserted", "same", "same"]


def test_a_longer_source_leaves_no_position_without_a_counterpart():
    assert align([1, 5, 4], [1, 6, 7, 8, 4]).counterparts == (0, 3, 4)


@pytest.mark.parametrize(
    ("patched", "source", "message"),
    [([1, 2], [1, 2], "same tokens"), ([1, 2, 3], [4, 5], "alignment is empty")],
)
def test_pairs_without_an_alignment_are_refused(patched, source, message):
    with pytest.raises(UserError, match=message):
        align(patched, source)


@pytest.mark.parametrize(
    ("counterparts", "message"),
    [((None, None), "empty"), ((0,), "1 entries"), ((0, 5), "position 5"), ((0, -1), "position -1")],
)
def test_a_wrong_alignment_is_refused(counterparts, message):
    with pytest.raises(UserError, match=message):
        given_alignment([1, 2], [1, 3], counterparts)


def test_where_the_patched_run_lacks_the_trigger_what_follows_its_place_is_after_it():
    alignment = align([1, 2, 3, 4], [1, 2, 7, 8, 3, 4])
    assert alignment.roles == ("before", "before", "after", "after")
    assert [mark.label for mark in landmarks(alignment.roles)][:2] == ["before", "before"]
    assert "before" not in [mark.label for mark in landmarks(alignment.roles)][2:]
    assert align([3, 4], [7, 8, 3, 4]).roles == ("after", "after")
