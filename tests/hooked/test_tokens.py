"""Token ids are those of the tokenizer's own call, whatever its settings, and a tokenizer's own way is respected."""

import pytest
from tiny_models import TEXTS, tiny_tokenizer

from hooked.prompts.tokens import tokenize_prompts, tokenizer_sha256

AWKWARD = (*TEXTS, "<s> in the text</s><pad>", "  blanks  ", "naïve 🙂 text", "a\nb\tc")


@pytest.fixture(params=[True, False], ids=["with-bos", "without-bos"])
def tokenizer(request, tmp_path):
    return tiny_tokenizer(tmp_path, bos=request.param)


def _ids(tokenizer):
    return [prompt.ids for prompt in tokenize_prompts(tokenizer, AWKWARD, 1000)]


def test_ids_are_those_of_the_ordinary_call(tokenizer):
    assert _ids(tokenizer) == tokenizer(list(AWKWARD))["input_ids"]
    tokenizer.split_special_tokens = True
    assert _ids(tokenizer) == tokenizer(list(AWKWARD))["input_ids"]


def test_truncation_and_padding_of_an_earlier_call_do_not_last(tokenizer):
    expected = tokenizer(list(AWKWARD))["input_ids"]
    tokenizer(list(AWKWARD), truncation=True, max_length=3, padding="max_length")
    assert _ids(tokenizer) == expected


def test_a_tokenizer_is_the_same_however_it_was_called_last(tokenizer):
    before = tokenizer_sha256(tokenizer)
    tokenizer(["a", "b c"], truncation=True, max_length=8, padding=True)
    assert tokenizer_sha256(tokenizer) == before


def test_a_tokenizer_with_a_way_of_its_own_keeps_it(tokenizer):
    class Reversing(type(tokenizer)):
        def _encode_plus(self, text, **options):
            encoded = super()._encode_plus(text, **options)
            encoded["input_ids"] = [row[::-1] for row in encoded["input_ids"]]
            return encoded

    expected = [row[::-1] for row in tokenizer(list(AWKWARD))["input_ids"]]
    tokenizer.__class__ = Reversing
    assert _ids(tokenizer) == expected
