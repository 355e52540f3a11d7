"""The prompts of observed and deployed contexts: same words, same length, nothing held out in what is fitted; bad grammars are one line."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments.shared.observed.contrasts import SHARES, draw_contrasts, part_size
from experiments.shared.observed.floors import text_baselines
from experiments.shared.observed.grammar import FUNCTION_WORDS, GRAMMAR, read_grammar, stems
from triggerlens import UserError

SIDES = ("positive", "negative")


@pytest.fixture(scope="module")
def grammar():
    return read_grammar(GRAMMAR)


@pytest.fixture(scope="module")
def drawn(grammar):
    return draw_contrasts(grammar, "observed", 0, 400)


def partners(drawn):
    return zip(drawn.items[::2], drawn.items[1::2], strict=True)


@pytest.mark.parametrize("concept", ["observed", "unrelated"])
def test_every_cell_of_the_design_has_four_hundred_different_prompts(grammar, concept):
    drawn = draw_contrasts(grammar, concept, 0, 400)
    cells = Counter((own.positive, own.format) for own in drawn.items)
    assert cells == {(side, own.name): 400 for side in (True, False) for own in grammar.formats}
    assert len(set(drawn.texts)) == 3200
    parts = Counter((own.format, own.part, own.positive) for own in drawn.items)
    assert all(parts[own.name, part, True] == part_size(part, 400) for own in grammar.formats for part in SHARES)


def words(text):
    return Counter("".join(letter if letter.isalnum() else " " for letter in text).split())


def test_partners_have_the_same_words_and_the_same_length(drawn):
    for one, other in partners(drawn):
        assert (one.pair, one.format, one.part) == (other.pair, other.format, other.part)
        assert one.positive
        assert not other.positive
        assert one.text != other.text
        assert words(one.text) == words(other.text)
        assert len(one.text) == len(other.text)


def test_which_cue_comes_first_says_nothing(grammar, drawn):
    cues = grammar.concepts.observed
    observed = {cue.positive for split in ("train", "validation", "test") for cue in getattr(cues, split)}
    deployed = {cue.negative for split in ("train", "validation", "test") for cue in getattr(cues, split)}
    for part in SHARES:
        first = Counter()
        for row in drawn.rows(part):
            own = drawn.items[row]
            places = [
                min((own.text.find(f" {cue}") for cue in many if f" {cue}" in own.text), default=-1)
                for many in (observed, deployed)
            ]
            first[own.positive, places[0] < places[1]] += 1
        assert first[True, True] == first[True, False] == first[False, True] == first[False, False]


def test_nothing_held_out_is_in_what_is_fitted(grammar, drawn):
    for cues in (grammar.concepts.observed, grammar.concepts.unrelated):
        assert not stems(cues.train) & stems(cues.test)
        assert not stems(cues.train) & stems(cues.validation)
    fitted = " ".join(drawn.items[row].text for row in drawn.rows("fit"))
    for cue in (*grammar.concepts.observed.test, *grammar.concepts.observed.validation):
        for name in (cue.positive, cue.negative):
            assert f" {name}." not in fitted
            assert f" {name} " not in fitted
    assert not [topic for topic in grammar.topics.test if topic in fitted]
    held_out = {drawn.items[row].text for part in ("known", "new") for row in drawn.rows(part)}
    assert not [topic for topic in grammar.topics.train if any(topic in text for text in held_out)]


def test_function_words_alone_tell_new_cues_as_the_page_says(grammar):
    """docs/instruments/observed.md: by log-odds of the words that cues of different parts may share, counted in those of fitting with one added."""

    def shared(cue):
        return [word for word in words(cue).elements() if word in FUNCTION_WORDS]

    cues = grammar.concepts.observed
    counts = [Counter(word for cue in cues.train for word in shared(getattr(cue, side))) for side in SIDES]
    odds = {word: math.log((counts[0][word] + 1) / (counts[1][word] + 1)) for word in FUNCTION_WORDS}
    scores = np.array([[sum(odds[word] for word in shared(getattr(cue, side))) for side in SIDES] for cue in cues.test])
    told = Counter(np.sign((scores[:, 0] - scores[:, 1]).round(9)).tolist())
    assert told == {1: 6, -1: 3, 0: 1}
    assert len(FUNCTION_WORDS) == 27
    assert roc_auc_score([1, 0] * 10, scores.ravel().round(9)) == pytest.approx(0.67)


def test_draws_are_a_function_of_the_seed(grammar, drawn):
    assert draw_contrasts(grammar, "observed", 0, 400).items == drawn.items
    others = draw_contrasts(grammar, "observed", 1, 400)
    assert len(set(others.texts) & set(drawn.texts)) < 800


def test_words_and_length_are_at_chance_by_construction_and_characters_leak(grammar):
    drawn = draw_contrasts(grammar, "observed", 0, 60)
    found = text_baselines(drawn, [len(text) for text in drawn.texts])
    for name in ("bag of words", "length"):
        assert [estimate.value for estimate in found[name].values()] == [0.5] * 4
    assert found["characters"]["within format"].value > 0.7
    assert found["characters"]["across formats, new cues"].value < found["characters"]["within format"].value - 0.15
    for estimate in found["characters"].values():
        assert estimate.low < estimate.value < estimate.high


def one_format(value):
    value["formats"] = value["formats"][:1]


def no_layout(value):
    value["formats"][2]["layouts"] = []


def a_cue_twice(value):
    value["frames"]["train"][3]["text"] = "This is not {denied} but {asserted}, really {asserted}."


def no_order(value):
    value["frames"]["test"] = [
        own for own in value["frames"]["test"] if (own["of"], own["first"]) != ("state", "denied")
    ]


def no_kind(value):
    value["concepts"]["observed"]["test"] = [
        own for own in value["concepts"]["observed"]["test"] if own["of"] == "state"
    ]


def cue_leaks(value):
    value["concepts"]["observed"]["test"][0]["positive"] = "a testing round"


def topic_leaks(value):
    value["topics"]["test"].append(value["topics"]["train"][0])


def no_deployed(value):
    del value["concepts"]["observed"]["train"][0]["negative"]


def begins_with_a_cue(value):
    value["frames"]["train"][0]["text"] = "{asserted} is this, not {denied}."


def same_answers(value):
    value["questions"][0]["deployed"] = value["questions"][0]["observed"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (one_format, "has 1 format; transfer from one to another needs at least two"),
        (no_layout, "agent has no layout, so two cells of the design are empty"),
        (a_cue_twice, r"frames.train\[3\]: .* the two contexts differ in length"),
        (no_order, "none of kind state names the denied cue first; a cell of the design is missing"),
        (no_kind, "concepts.observed.test: no cue of kind occasion; a cell of the design is missing"),
        (cue_leaks, "train and test share the word test"),
        (topic_leaks, "'bread baking' is in both splits"),
        (no_deployed, "negative"),
        (begins_with_a_cue, "begins with a cue"),
        (same_answers, "two different answers"),
    ],
)
def test_a_bad_grammar_is_one_line(tmp_path, change, problem):
    value = json.loads(GRAMMAR.read_text())
    change(value)
    path = tmp_path / "grammar.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=problem) as caught:
        read_grammar(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "problem"), [("{", "no grammar in JSON"), ("[]", "must be an object"), ("{}", "formats")]
)
def test_a_file_that_is_no_grammar(tmp_path, body, problem):
    (tmp_path / "grammar.json").write_text(body)
    with pytest.raises(UserError, match=problem):
        read_grammar(tmp_path / "grammar.json")


def test_more_or_fewer_prompts_than_can_be_drawn(grammar):
    with pytest.raises(UserError, match="too few to divide"):
        draw_contrasts(grammar, "observed", 0, 10)
    with pytest.raises(UserError, match=r"no .* different pairs"):
        draw_contrasts(grammar, "observed", 0, 100_000)


def test_rows_are_by_part_and_format(drawn):
    rows = drawn.rows("new", "chat", "code")
    assert {(drawn.items[row].format, drawn.items[row].part) for row in rows} == {("chat", "new"), ("code", "new")}
    assert len(rows) == 2 * 2 * part_size("new", 400)
    assert np.array_equal(np.unique(drawn.pairs, return_counts=True)[1], np.full(1600, 2))
