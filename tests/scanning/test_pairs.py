"""From a finding to prompts: what stands in `prompts.jsonl` is what was judged, token by token."""

import pytest
from scanned import word_prompts
from tiny_models import tiny_llama_tokenizer, tiny_model

from hooked import load_model
from scanning import ScanConfig, answered_prompts, insertion
from scanning.candidates.families import text_candidates
from scanning.pairs import carried

CONFIG = ScanConfig(search_prompts=3, judge_prompts=4, repertoire=8, answer_steps=3, new_tokens=5)


@pytest.fixture(scope="module", params=["newer", "older"])
def benign(request):
    model = load_model(tiny_model("llama"), tokenizer=tiny_llama_tokenizer(older=request.param == "older"))
    return answered_prompts(model, word_prompts(), CONFIG)


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
