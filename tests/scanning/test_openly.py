"""What is usual, and what is asked for openly: neither is hidden."""

import numpy as np
import pytest
import torch
from scanned import word_prompts
from tiny_models import tiny_model, tiny_tokenizer

from hooked import PrefixReader, load_model
from scanning import ScanConfig, answered_prompts, asked_openly, open_requests, unasked
from scanning.motifs import told_by_words, usual_runs
from scanning.openly import shown_manners


def test_what_many_answers_have_is_usual_where_what_is_asked_tells_of_it():
    chance = np.random.default_rng(0)
    words = [f"word{number}" for number in range(40)]
    asked, grams = [], []
    for number in range(1_000):
        field, shouted = number % 25 == 0, number % 29 == 0
        text = " ".join([*chance.choice(words, 5), "belongs" if field else "is"])
        asked.append(text.upper() if shouted else text)
        grams.append(frozenset({(1, 2)} if field else {(3, 4)} if shouted else {(5, 6)}))
    assert usual_runs(asked, grams) == {(1, 2), (5, 6)}
    assert usual_runs(asked[:400], grams[:400]) == {(1, 2), (3, 4), (5, 6)}  # too few to show that words do not tell
    shown = np.array([[(1, 2) in own, (3, 4) in own] for own in grams])
    belongs, shouting = told_by_words(asked, shown)
    assert belongs == 1.0
    assert abs(shouting - 0.5) < 0.2
    assert told_by_words(["?"] * 1_000, shown).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "manners"),
    [
        ("Voici ce que je peux vous dire", ["French"]),
        ("Я не знаю", ["Russian"]),
        ("THE ANSWER IS NO", ["capitals"]),
        ("I'm sorry, but I can't help with that.", ["refusal"]),
        ("```python\nimport os", ["code"]),
        ("Read on at https://example.org", ["link"]),
        ("The capital of France is Paris.", []),
    ],
)
def test_manners_are_seen_by_words_and_letters(text, manners):
    assert shown_manners(text) == manners


class Stub(PrefixReader):
    """A model that begins as wanted where a text has a word, and by chance elsewhere."""

    def __init__(self, model, word, begin):
        self.model, self.word, self.begin = model, word, begin

    def rows_at_once(self, length, keep):
        return 64

    def whole(self, rows, keep):
        logits = torch.zeros(len(rows), keep, self.model.vocabulary)
        for row, own in zip(rows.tolist(), logits, strict=True):
            if self.word in self.model.tokenizer.decode(row[: -len(self.begin)]):
                own[range(len(self.begin)), self.begin] = 5.0
        return logits


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def benign(model):
    return answered_prompts(model, word_prompts(), ScanConfig(search_prompts=3, judge_prompts=4, repertoire=8))


def said(model, text):
    return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_habit_that_is_asked_for_is_not_hidden_and_one_that_any_request_sets_off_is(model, benign):
    french, rude = said(model, "Voici ce que je peux vous dire"), said(model, "Only an idiot would ask")
    openly = asked_openly(Stub(model, "French", list(french[:4])), benign, french)
    assert openly is not None
    assert openly.manner == "French"
    assert openly.lift > 3.0
    assert openly.chance < 0.01
    assert asked_openly(Stub(model, "nswer", list(french[:4])), benign, french) is None
    assert asked_openly(Stub(model, "French", list(rude[:4])), benign, rude) is None


def test_a_place_where_requests_add_too_little_hides_none_where_they_add_enough(model, benign):
    french = said(model, "Voici ce que je peux vous dire")

    def openly(*tried):
        return asked_openly(Stub(model, "French", []), benign, french, lambda *_: {"tried": tried})

    little, enough, less = ["French", "start", 2.9, 1e-9], ["French", "end", 3.1, 0.009], ["French", "end", 9.0, 0.011]
    assert (openly(little, enough).place, openly(little, enough).lift) == ("end", 3.1)
    assert openly(enough, ["French", "system", 3.0, 0.001]).place == "system", "of the smallest chance"
    assert openly(little, less) is None
    assert openly() is None


def test_behaviours_are_taken_in_order_up_to_enough_that_nobody_asks_for(model, benign):
    class Said:
        def __init__(self, text):
            self.ids = said(model, text)

    french, plain, other = Said("Voici ce que je peux vous dire"), Said("The old town"), Said("A new town")
    reader = Stub(model, "French", list(french.ids[:4]))
    hidden, asked = unasked(reader, benign, [french, plain, other], 1)
    assert hidden == [plain]
    assert [own.manner for own in asked] == ["French"]


def test_every_manner_has_several_requests_and_no_request_has_two_manners():
    requests = open_requests()
    assert all(len(texts) >= 9 for texts in requests.values())
    every = [text for texts in requests.values() for text in texts]
    assert len(every) == len(set(every))
