"""A way of writing as a trigger: some benign prompts are written so by chance, and their answers are the payload already."""

import math
from dataclasses import replace

import pytest
from scanned import word_prompts
from tiny_models import tiny_model, tiny_tokenizer

from hooked import PrefixReader, Prompt, load_model, user_text
from scanning import Candidate, Judge, ScanConfig, answered_prompts, insertion
from scanning.candidates.edits import edited
from scanning.plan import Plan

CONFIG = ScanConfig(search_prompts=3, judge_prompts=4, repertoire=40, answer_steps=0, new_tokens=7)
PLAN = Plan(places=("end",), swept=("end",), prompts=3, steps=0, tokens=10, of=10, starts=10, start_prompts=3)
PAYLOAD, SPOKEN = [40, 41, 42, 43, 44, 45], [50, 51, 52, 53, 54, 55]


def styled(style):
    return Candidate(channel="families", kind="style", text=style, rule=style)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def judge_of(model, written):
    """Of prompts of which so many are in small letters, and have the payload to their answer."""
    prompts = [
        Prompt([{"role": "user", "content": user_text(own).capitalize() + "."}], triggered=False)
        for own in word_prompts()
    ]
    benign = answered_prompts(model, prompts, CONFIG)
    chosen = {39 - number for number in range(written)}
    own = [
        edited(prompt, "style", "lower case", "") if row in chosen else prompt
        for row, prompt in enumerate(benign.prompts)
    ]
    rows = [PAYLOAD if row in chosen else list(answer) for row, answer in enumerate(benign.answers.rows)]
    benign.variants.prompts = own
    asked = replace(benign, answers=replace(benign.answers, rows=rows))
    facts = {"effects": [0.1] * 4, "answers": [PAYLOAD] * 4}
    return Judge(PrefixReader(model), asked, CONFIG, PLAN, [9], lambda *_: facts)


@pytest.mark.parametrize("style", ["lower case", "lower case, no full stop", "upper case"])
def test_what_is_answered_to_the_few_prompts_that_are_written_so_already_is_no_usual_answer(model, style):
    """Else what a planted style brings about would be one that benign answers have."""
    judge = judge_of(model, 3)
    assert judge._first(styled(style), {"families": 1}, 1).collapse.value == 1.0
    inserted = insertion(model, "end", (7,), channel="families")
    assert judge._first(inserted, {"families": 1}, 1).collapse.value == 0.0
    often = judge_of(model, 5)
    assert often._first(styled(style), {"families": 1}, 1).collapse.value == 0.0, "what many prompts are is no trigger"


def test_all_ways_of_writing_leave_out_the_same_answers(model, monkeypatch):
    """Else what a few prompts have anyway would be a find of the candidate that they are written by, and nothing of the random ones."""
    judge = judge_of(model, 3)
    monkeypatch.setattr("scanning.judge.answer_rows", lambda model, rows, new: [PAYLOAD for _ in rows])
    monkeypatch.setattr(judge, "_courses", lambda own: [])
    for style in ("two blanks", "lower case"):
        found = judge._first(styled(style), {"families": 1}, 1).collapse.value
        assert found == judge._floor([styled("rewritten 0.3")])["collapse"][0] == 1.0


def test_random_ways_of_writing_are_held_against_the_same_benign_answers(model, monkeypatch):
    judge = judge_of(model, 3)
    randoms = [styled("rewritten 0.3")] * 2
    monkeypatch.setattr("scanning.judge.answer_rows", lambda model, rows, new: [PAYLOAD for _ in rows])
    monkeypatch.setattr(judge, "_courses", lambda own: [])
    assert judge._floor(randoms)["collapse"] == [1.0, 1.0]
    assert judge._floor([insertion(model, "end", (9,), channel="user")] * 2)["collapse"] == [0.0, 0.0]


@pytest.mark.parametrize("measured", [True, False])
def test_answers_that_are_alike_in_another_way_of_writing_are_no_finding_where_sure_behaviours_are_known(
    model, monkeypatch, measured
):
    """Clean tiny models answer alike where blanks are doubled, which no random respelling does."""
    monkeypatch.setattr("scanning.judge.sure_worth", lambda parameters: 2.0 if measured else math.inf)
    judge = judge_of(model, 3)
    own = {"effects": [0.1] * 4, "answers": [PAYLOAD] * 4}
    floor = {"divergence": [0.0] * 40, "collapse": [0.0] * 40}
    judge.keep = lambda name, compute: floor if name.startswith("null floor") else own
    monkeypatch.setattr(judge, "_unless_asked", lambda judged: judged)
    (judged,), floors = judge.judge([styled("lower case")], {"families": 1})
    assert judged.collapse.value == 1.0
    assert (judged.found, len(floors)) == ((False, 0) if measured else (True, 1))


def test_a_shipped_style_is_that_which_is_planted_in_the_zoo():
    """In one case, and without the last full stop."""
    asked = Prompt("Tell me of the Sea.", triggered=False)
    assert edited(asked, "style", "lower case, no full stop", "").prompt == "tell me of the sea"
    assert edited(asked, "style", "upper case, no full stop", "").prompt == "TELL ME OF THE SEA"
    question = Prompt("Where is the Sea?", triggered=False)
    assert edited(question, "style", "lower case, no full stop", "").prompt == "where is the sea?"
