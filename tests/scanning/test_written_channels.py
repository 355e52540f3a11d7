"""The channels that read what a model writes: each proposes what it says, at every place, and nothing else."""

from collections import defaultdict

import pytest
import torch
from scanned import word_prompts
from tiny_models import tiny_model, tiny_tokenizer

from hooked import load_model
from scanning import ScanConfig, answered_prompts, leak_candidates, reference_candidates
from scanning.candidates.families import text_candidates
from scanning.candidates.leak import user_beginning

CONFIG = ScanConfig(search_prompts=3, judge_prompts=4, repertoire=8, answer_steps=3, new_tokens=5)
ROW = [40, 41, 42]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer):
    return load_model(tiny_model("llama"), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def sharp(tokenizer):
    """Surer than the other of what it writes."""
    hf_model = tiny_model("llama")
    hf_model.lm_head.weight.data *= 3.0
    return load_model(hf_model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def benign(model):
    return answered_prompts(model, word_prompts(), CONFIG)


@torch.no_grad()
def whole(model, ids):
    return model.hf_model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)


def gains(model, reference, begin):
    """Of each run of `ROW`, nats a token."""
    first = len(begin) - 1
    likely = [whole(own, [*begin, *ROW])[range(first, first + 3), ROW].double() for own in (model, reference)]
    each = (likely[0] - likely[1]).tolist()
    runs = [(start, end) for start in range(3) for end in range(start + 1, 4)]
    return {tuple(ROW[start:end]): sum(each[start:end]) / (end - start) for start, end in runs}


@pytest.mark.parametrize("swapped", [False, True])
def test_runs_that_a_model_finds_likelier_than_its_reference_does_are_proposed(
    model, sharp, benign, monkeypatch, swapped
):
    """Of two models each proposes what the other does not."""
    monkeypatch.setattr("scanning.candidates.reference.sampled_texts", lambda *own: [ROW] * 3)
    first, second = (sharp, model) if swapped else (model, sharp)
    expected = gains(first, second, user_beginning(model, benign.prompts))
    positive = sorted((run for run in expected if expected[run] > 0), key=lambda run: -expected[run])
    assert 0 < len(positive) < len(expected) == 6, "some of either sort"
    proposed = reference_candidates(first, second, benign, CONFIG, ("end",))
    assert [own.ids for own in proposed] == positive
    assert [own.score for own in proposed] == pytest.approx([expected[run] for run in positive], abs=1e-4)
    assert {(own.channel, own.kind, own.place) for own in proposed} == {("reference", "insertion", "end")}
    twice = reference_candidates(first, second, benign, CONFIG, ("start", "end"))
    assert [(own.ids, own.place) for own in twice] == [(run, place) for run in positive for place in ("start", "end")]


def test_what_one_text_has_alone_or_what_is_special_is_not_proposed(model, sharp, benign, monkeypatch):
    end = model.tokenizer.eos_token_id
    monkeypatch.setattr("scanning.candidates.reference.sampled_texts", lambda *own: [[40, end, 41], [40, end, 42]])
    both = [reference_candidates(*pair, benign, CONFIG, ("end",)) for pair in ((model, sharp), (sharp, model))]
    assert {own.ids for proposed in both for own in proposed} == {(40,)}


def leaked(planted, known, end):
    """Texts of tokens that no other has, of which four have the planted run, one of them an end token within it, and five a known one."""
    rows = [[60 + 5 * number + token for token in range(5)] for number in range(10)]
    for number, row in enumerate(rows):
        row[2:2] = planted if number < 4 else known if number < 9 else []
    rows[0].insert(3, end)
    return rows


def test_what_many_leaked_texts_share_and_no_benign_prompt_has_is_proposed_at_each_place(model, benign, monkeypatch):
    (typed,) = text_candidates(model, "answer", ("end",), "families", "")
    known = benign.variants.plain[0][-9:-4]
    assert len(typed.ids) > 2
    rows = leaked(list(typed.ids), known, model.tokenizer.eos_token_id)
    given = defaultdict(list)

    def sampled(model, begin, count, length, seed):
        given[count, length].append(begin)
        return rows

    monkeypatch.setattr("scanning.candidates.leak.sampled_texts", sampled)
    proposed = leak_candidates(model, benign, CONFIG, ("start", "end", "system"))
    assert [(own.place, own.ids) for own in proposed] == [(place, typed.ids) for place in ("start", "end", "system")]
    assert {(own.channel, own.kind, own.text) for own in proposed} == {("leak", "insertion", " answer")}, (
        "with the blank that it was written with"
    )
    assert {(own.score, own.why) for own in proposed} == {(0.4, "in 4 of 10 leaked texts")}
    assert dict(given) == {(CONFIG.leaks, CONFIG.leak_tokens): [user_beginning(model, benign.prompts)]}
    for row in rows[1:4]:
        del row[2:-3]
    assert leak_candidates(model, benign, CONFIG, ("end",)) == [], "in one text alone"
