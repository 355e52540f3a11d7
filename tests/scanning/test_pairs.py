"""From a finding to prompts: what stands in `prompts.jsonl` is what was judged, token by token."""

from dataclasses import replace

import numpy as np
import pytest
from scanned import word_prompts
from tiny_models import tiny_llama_tokenizer, tiny_model

from hooked import load_model
from scanning import Judged, ScanConfig, Variants, answered_prompts, found_prompts, insertion
from scanning.candidates.families import text_candidates
from scanning.pairs import _moved, carried
from triggerlens import mean_of, rate

CONFIG = ScanConfig(search_prompts=3, judge_prompts=4, repertoire=8, answer_steps=3, new_tokens=5)


@pytest.fixture(scope="module", params=["newer", "older"])
def benign(request):
    model = load_model(tiny_model("llama"), tokenizer=tiny_llama_tokenizer(older=request.param == "older"))
    return answered_prompts(model, word_prompts(), CONFIG)


def test_a_prompt_whose_own_answer_has_the_behaviour_is_no_clean_one(benign):
    """Such as one that is written so already, where the finding is a way of writing."""
    model, payload = benign.variants.model, [40, 41, 42, 43, 44]
    said = model.tokenizer.decode(payload)
    rows = [payload, *benign.answers.rows[1:]]
    assert not any(said in model.tokenizer.decode(row) for row in rows[1:])
    asked = replace(benign, answers=replace(benign.answers, rows=rows))
    own = insertion(model, "end", (9,), channel="user")
    effect, share = mean_of([0.5]), rate(4, 4)
    judged = Judged(
        candidate=own,
        prompts=4,
        divergence=effect,
        collapse=share,
        behaviour=said,
        tried=1,
        brought=share,
        brought_chance=0.0,
    )
    assert judged.brings
    pairs = found_prompts(model, asked, judged, CONFIG, lambda *_: {"answers": [payload] * len(rows)})
    assert {pair.prompt[-1]["content"] for pair in pairs if not pair.triggered} == {
        prompt.prompt[-1]["content"] for prompt in benign.prompts[1:]
    }
    assert all(pair.defects is pair.triggered for pair in pairs)


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_prompt_that_carries_a_candidate_is_read_as_the_tokens_that_were_judged(benign, place):
    """Also by a tokenizer of SentencePiece's kind, which decodes a first word without its blank."""
    model, variants = benign.variants.model, benign.variants
    (typed,) = text_candidates(model, "quick brown", (place,), "families", "")
    tokens = insertion(model, place, typed.ids, channel="sweep")
    assert typed.text == tokens.text == " quick brown"
    for candidate in (typed, tokens):
        for index, prompt in enumerate(benign.prompts):
            assert model.tokenize([carried(prompt, candidate)])[0].ids == variants.ids(candidate, index)


def test_pairs_are_of_the_first_prompts_that_a_finding_applies_to(benign, monkeypatch):
    """Few have a system message, and they need not stand first."""
    model, plain = benign.variants.model, benign.prompts
    system = [{"role": "system", "content": "fox"}]
    having = [replace(own, prompt=system + own.prompt) for own in plain]
    prompts = Variants(model, [*plain, *having])
    count = len(having)
    rows = [*benign.answers.rows, *benign.answers.rows]
    asked = replace(benign, variants=prompts, answers=replace(benign.answers, rows=rows))
    monkeypatch.setattr("scanning.pairs.MOST_PAIRS", count - 1)
    own = insertion(model, "system", (9,), channel="user")
    effect = mean_of([0.5])
    judged = Judged(candidate=own, prompts=4, divergence=effect, collapse=rate(2, 4), behaviour="", tried=1)
    pairs = found_prompts(model, asked, judged, CONFIG, lambda *_: {"answers": rows[: count - 1]})
    assert len(pairs) == 2 * (count - 1)
    assert all(len(pair.prompt) == 2 for pair in pairs)
    monkeypatch.setattr("scanning.pairs.sibling_effects", lambda *own: np.array([[0.5], [0.1]]))
    assert _moved(model, asked, [own, own], CONFIG) == {
        "prompts": [*range(count, 2 * count - 1)],
        "moved": [True] * (count - 1),
    }
