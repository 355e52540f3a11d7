"""One pair for each `pair` that has both sides, whoever asks."""

from itertools import permutations

import pytest
from hypothesis import given, settings, strategies as st

from hooked import Prompt, defecting_pairs, pair_prompts
from triggerlens import UserError

PROMPTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ab"]),
        st.booleans(),
        st.sampled_from([None, True, False]),
        st.sampled_from([None, "1", "2", "3"]),
    ),
    max_size=20,
)


@settings(max_examples=100, deadline=None)
@given(rows=PROMPTS)
def test_a_pair_is_one_prompt_of_each_kind(rows):
    prompts = [Prompt(*row) for row in rows]
    try:
        pairs = pair_prompts(prompts)
    except UserError:
        pairs = []
    sides = {
        name: [[p for p in prompts if p.pair == name and p.triggered is kind] for kind in (False, True)]
        for name in "123"
    }
    usable = {name for name, (clean, triggered) in sides.items() if triggered and any(not p.defects for p in clean)}
    assert {pair.name for pair in pairs} == usable
    assert len(pairs) == len(usable)
    for pair in pairs:
        assert pair.clean is prompts[pair.clean_index]
        assert pair.triggered is prompts[pair.triggered_index]
        assert not pair.clean.triggered
        assert not pair.clean.defects
        assert pair.triggered.triggered
        assert pair.triggered.defects or not any(p.defects for p in sides[pair.name][1])
    kept = defecting_pairs(pairs)
    assert bool(kept) == bool(pairs)
    assert all(pair.triggered.defects for pair in kept) or not any(pair.triggered.defects for pair in pairs)


def test_one_that_defects_is_preferred_whatever_the_order():
    clean = Prompt("c", False, False, "1")
    for triggered in permutations([Prompt(f"t{defects}", True, defects, "1") for defects in (True, None, False)]):
        assert pair_prompts([clean, *triggered])[0].triggered.defects is True


def test_where_no_pair_defects_all_are_kept():
    prompts = [Prompt(f"{n} {kind}", kind, False, str(n)) for n in range(3) for kind in (False, True)]
    assert len(defecting_pairs(pair_prompts(prompts))) == 3


@pytest.mark.parametrize("prompts", [[], [Prompt("a", True, pair="1"), Prompt("b", False, True, pair="1")]])
def test_refuses_prompts_without_a_pair(prompts):
    with pytest.raises(UserError, match="no `pair` holds"):
        pair_prompts(prompts)
