"""One splitter: a file has the same test prompts in every room."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings, strategies as st
from tiny_prompts import labelled_prompts

from experiments.shared.data import labelled
from hooked import choose_labels, split_prompts
from patching.removal.pairs import _sides
from probes import TrainConfig, check_prompts
from sae import prompt_labels, train_and_held_out


def shuffled(seed, copies, marked):
    """Labelled pairs in another order, some texts of which occur again without a pair; some with a split of their own."""
    prompts = labelled_prompts(60, harmless=20, seed=seed)
    prompts += [replace(prompt, pair=None) for prompt in prompts[: 2 * copies]]
    if marked:
        sides = {prompt.pair: "test" if index % 3 else "train" for index, prompt in enumerate(prompts[::2])}
        by_text = {prompt.prompt: sides.get(prompt.pair, "train") for prompt in prompts if prompt.pair}
        prompts = [replace(prompt, split=by_text[prompt.prompt]) for prompt in prompts]
    return [prompts[index] for index in np.random.default_rng(seed).permutation(len(prompts))]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), copies=st.integers(0, 9), marked=st.booleans())
def test_every_room_reports_on_the_same_prompts(seed, copies, marked):
    prompts = shuffled(seed, copies, marked)
    expected = split_prompts(prompts)
    assert np.array_equal(check_prompts(prompts).splits.test, expected.test)
    assert np.array_equal(check_prompts(prompts, TrainConfig(label="triggered")).splits.test, expected.test)
    assert np.array_equal(labelled(prompts).test, expected.test)
    assert np.array_equal(np.flatnonzero(prompt_labels(prompts).test), expected.test)
    assert np.array_equal(prompt_labels(prompts).defects, choose_labels(prompts)[1])
    train, held_out = train_and_held_out(prompts, 0, most=len(prompts))
    assert {id(prompt) for prompt in held_out} == {id(prompts[index]) for index in expected.test}
    assert {id(prompt) for prompt in train} == {id(prompts[index]) for index in expected.train}
    fitted, reported = _sides(prompts, 0)
    assert {pair.clean_index for pair in reported} <= set(expected.test.tolist())
    assert {pair.triggered_index for pair in fitted} <= set(expected.train.tolist())
