"""What follows a prefix that was read once is exactly what the whole text gives; and a prompt is cut where its user's text says."""

from dataclasses import replace

import pytest
import torch
from architectures import build
from tiny_models import CONTEXT, tiny_llama_tokenizer, tiny_model, tiny_tokenizer

from hooked import (
    PrefixReader,
    Prompt,
    inserted_ids,
    inserted_text,
    load_model,
    open_prompt,
    read_variants,
    round_trips,
    with_text_at,
)
from hooked.prompts.rendering import render
from triggerlens import UserError

MODELS = ("gpt2", "gpt_neox", "mistral", "gemma3", "bloom", "mixtral", "lfm2", "qwen3_next", "falcon (rw)")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer):
    return load_model(tiny_model("llama"), tokenizer=tokenizer)


@torch.no_grad()
def whole(model, rows):
    return model.hf_model(torch.tensor(rows), use_cache=False).logits.log_softmax(-1)


@pytest.mark.parametrize("name", MODELS)
def test_rows_after_a_prefix_are_the_whole_text_to_rounding(name, tokenizer):
    model = load_model(build(name), tokenizer=tokenizer)
    generator = torch.Generator().manual_seed(0)
    reader = PrefixReader(model)
    for length in (0, 1, 5, 13):  # a window of 8 is passed
        prefix = torch.randint(3, 300, (length,), generator=generator).tolist()
        rows = torch.randint(3, 300, (4, 6), generator=generator)
        expected = whole(model, [[*prefix, *row] for row in rows.tolist()])
        seen = reader.read(prefix, rows, keep=3)
        torch.testing.assert_close(seen.log_softmax(-1), expected[:, -3:], atol=1e-5, rtol=1e-5)
        following = reader.open(prefix, 4)
        parts = [following.read(rows[:, :4]), following.read(rows[:, 4:5]), following.read(rows[:, 5:])]
        for place, part in zip((-3, -2, -1), parts, strict=True):
            torch.testing.assert_close(part[:, 0].log_softmax(-1), expected[:, place], atol=1e-5, rtol=1e-5)
    assert reader.fast
    assert reader.checked > 3
    assert reader.largest_difference < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_rows_that_are_left_alone_go_on_as_whole_texts(name, tokenizer):
    model = load_model(build(name), tokenizer=tokenizer)
    rows = torch.randint(3, 300, (5, 4), generator=torch.Generator().manual_seed(1))
    following = PrefixReader(model).open((5, 9, 200), 5)
    following.read(rows[:, :2])
    following.go_on_with(torch.tensor([1, 4]))
    seen = following.read(rows[[1, 4], 2:])
    expected = whole(model, [[5, 9, 200, *row] for row in rows[[1, 4]].tolist()])[:, -1]
    torch.testing.assert_close(seen[:, 0].log_softmax(-1), expected, atol=1e-5, rtol=1e-5)


def test_texts_that_go_on_together_take_a_gigabyte_of_keys_and_values(model):
    reader = PrefixReader(model)
    cache = reader.cache_of((5, 9, 200))
    each = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / 3
    length = 2**20
    assert reader.rows_kept(length) == int(2**30 / (each * length))
    assert reader.rows_kept(2**40) == 1


def test_prefixes_that_are_kept_take_a_gigabyte_of_keys_and_values_and_the_newest_is(model, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    prefixes = [torch.randint(3, 300, (length,), generator=generator).tolist() for length in (5, 9, 5, 7, 3, 6)]
    rows = torch.randint(3, 300, (2, 4), generator=generator)

    def held(reader):
        caches = [cache for cache in reader._kept.values() if cache is not None]
        return sum(layer.keys.nbytes + layer.values.nbytes for cache in caches for layer in cache.layers)

    every = PrefixReader(model)
    expected = [every.read(prefix, rows) for prefix in prefixes]
    each = held(every) // sum(map(len, prefixes))
    for tokens, most in ((12, 12), (1, 9)):
        monkeypatch.setattr("hooked.prefixes._CACHED", tokens * each)
        reader = PrefixReader(model)
        for prefix, logits in [*zip(prefixes, expected, strict=True)] * 2:
            torch.testing.assert_close(reader.read(prefix, rows), logits, atol=1e-5, rtol=1e-5)
            assert tuple(prefix) in reader._kept
            assert 0 < held(reader) <= most * each
        assert len(reader._kept) == (2 if tokens == 12 else 1)
        assert reader.fast


def test_variants_of_any_length_come_back_in_order(model):
    base = [5, 9, 200, 17, 33, 250]
    variants = [[5, 9, 7, 17, 33, 250], base, [8, *base], [5, 9, 200, 17, 33, 250, 4, 4], [5, 9, 200, 250]]
    seen = read_variants(PrefixReader(model, token_budget=8), base, variants, keep=2)
    for row, variant in zip(seen, variants, strict=True):
        torch.testing.assert_close(row.log_softmax(-1), whole(model, [variant])[0, -2:], atol=1e-5, rtol=1e-5)


def test_the_output_layer_reads_all_rows_in_one_product(model):
    """Of a view of each row's last state `torch` makes a product a row, and copies the weights for each in bfloat16."""
    seen = []
    with model.alone():
        handle = model.hf_model.lm_head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        PrefixReader(model).read([5, 6], torch.randint(3, 300, (4, 6)), keep=2)
        model.generate(model.tokenize(["a text", "another, longer one"]), 3)
    finally:
        handle.remove()
    assert {(len(own), own.shape[1]) for own in seen} >= {(4, 2), (2, 1)}
    assert all(own.is_contiguous() for own in seen)


def test_a_cache_that_gives_something_else_is_not_used(model, monkeypatch):
    """Then everything is read whole, and right."""
    honest = PrefixReader.cache_of
    monkeypatch.setattr(PrefixReader, "cache_of", lambda self, prefix: honest(self, (*prefix[:-1], 7)))
    reader, rows = PrefixReader(model), torch.tensor([[4, 5], [6, 7]])
    seen = reader.read((5, 9, 200), rows)
    assert not reader.fast
    torch.testing.assert_close(
        seen[:, 0].log_softmax(-1), whole(model, [[5, 9, 200, 4, 5], [5, 9, 200, 6, 7]])[:, -1], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gemma3", "mixtral"])
def test_in_sixteen_bits_a_right_cache_is_used_and_a_wrong_one_is_not(tokenizer, monkeypatch, name, dtype):
    """Also where every probability is small, so that none can differ by much."""
    model = load_model(build(name).to(dtype), tokenizer=tokenizer)
    prefix, rows = (5, 9, 200, 17, 33), torch.tensor([[4, 5], [6, 7]])
    reader = PrefixReader(model)
    reader.read(prefix, rows)
    assert reader.fast
    assert reader.checked == 1
    honest = PrefixReader.cache_of
    monkeypatch.setattr(PrefixReader, "cache_of", lambda self, prefix: honest(self, (*prefix[:-1], 7)))
    reader = PrefixReader(model)
    seen = reader.read(prefix, rows)
    assert not reader.fast
    torch.testing.assert_close(seen, model.run(torch.tensor([[*prefix, 4, 5], [*prefix, 6, 7]])).logits[:, -1:].float())


def test_a_text_beyond_the_context_is_refused(model):
    with pytest.raises(UserError, match=f"exceeds the context of {CONTEXT}"):
        PrefixReader(model).read([5] * CONTEXT, torch.tensor([[5]]))


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me about the sea."}]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("start", "<s><system>Be brief.<user>YES Tell me about the sea.<assistant>"),
        ("middle", "<s><system>Be brief.<user>Tell me aboutYES the sea.<assistant>"),
        ("end", "<s><system>Be brief.<user>Tell me about the sea.YES<assistant>"),
        ("system", "<s><system>Be brief.YES<user>Tell me about the sea.<assistant>"),
    ],
)
def test_a_chat_prompt_is_cut_at_a_place(tokenizer, place, text):
    opened = open_prompt(tokenizer, Prompt(CHAT, triggered=False), place)
    ids = tokenizer("YES", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(opened.filled(ids)) == text
    # What is between the halves aside, they are the tokens of the prompt as it is always read.
    plain = tokenizer(opened.left + opened.right, add_special_tokens=False)["input_ids"]
    assert opened.filled(()) == plain


@pytest.mark.parametrize("place", ["start", "middle", "end", "system"])
def test_a_text_is_typed_where_a_prompt_is_cut(tokenizer, place):
    """In the last system message, where there are several; what else a prompt has stays."""
    two = [{"role": "system", "content": "First."}, *CHAT]
    prompt = Prompt(two, triggered=False, extra={"tools": []})
    opened = open_prompt(tokenizer, Prompt(two, triggered=False), place)
    typed = with_text_at(prompt, place, "YES")
    assert render(tokenizer, replace(typed, extra={})) == f"{opened.left}YES{opened.right}"
    assert typed.extra == {"tools": []}
    assert typed.prompt[0] == two[0]


def test_parts_in_place_of_a_text_have_no_place():
    parts = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, CHAT[1]]
    assert with_text_at(Prompt(parts, triggered=False), "system", "YES") is None
    assert with_text_at(Prompt("Tell", triggered=False), "middle", "YES") is None


def test_a_plain_prompt_keeps_its_special_token_and_has_no_system_message(tokenizer):
    opened = open_prompt(tokenizer, "Tell me", "start")
    assert opened.before == (1,)
    assert opened.filled(()) == tokenizer(" Tell me")["input_ids"]
    assert open_prompt(tokenizer, "Tell me", "system") is None
    assert open_prompt(tokenizer, "Tell", "middle") is None


def test_tokens_that_no_text_gives_are_told_from_those_that_one_does(tokenizer):
    """`lazy` is a token; `l`, `azy` are two that are never made of that text."""
    opened = open_prompt(tokenizer, Prompt(CHAT, triggered=False), "end")
    natural = tokenizer(" quick", add_special_tokens=False)["input_ids"]
    letters = [token for letter in " quick" for token in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    assert tokenizer.decode(natural) == tokenizer.decode(letters)
    assert round_trips(tokenizer, opened, natural)
    assert natural == letters or not round_trips(tokenizer, opened, letters)


@pytest.mark.parametrize("make", ["tokenizer", "of SentencePiece's kind"])
@pytest.mark.parametrize("place", ["start", "middle", "end", "system"])
def test_inserted_tokens_are_typed_with_the_blank_that_they_bring(tokenizer, make, place):
    """A tokenizer of SentencePiece's kind decodes the first word of a text without its blank, wherever it will stand."""
    tokenizer = tokenizer if make == "tokenizer" else tiny_llama_tokenizer()
    natural = inserted_ids(tokenizer, " quick brown")
    assert inserted_text(tokenizer, natural) == " quick brown"
    assert (tokenizer.decode(natural) == "quick brown") is (make != "tokenizer")
    for prompt in (Prompt(CHAT, triggered=False), Prompt("Tell me of it.", triggered=False)):
        opened = open_prompt(tokenizer, prompt, place)
        if opened is not None:
            assert round_trips(tokenizer, opened, natural)


def test_a_text_behind_another_one_is_not_tokenized_as_one_that_stands_alone(tokenizer):
    """A text of its own may get a blank more; where the text before would be tokenized otherwise with it, it stands alone."""
    twice = tiny_llama_tokenizer(older=True)
    assert len(twice(" quick", add_special_tokens=False)["input_ids"]) == 2
    assert twice.convert_ids_to_tokens(inserted_ids(twice, " quick")) == ["▁quick"]
    alone = tokenizer("zy", add_special_tokens=False)["input_ids"]
    assert (
        tokenizer("azy", add_special_tokens=False)["input_ids"][0]
        != tokenizer("a", add_special_tokens=False)["input_ids"][0]
    )
    assert inserted_ids(tokenizer, "zy") == alone


def test_a_template_that_changes_the_text_is_refused_in_a_line(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m.content | length }}{% endfor %}")
    with pytest.raises(UserError, match="changes what the user's text says"):
        open_prompt(tokenizer, Prompt(CHAT[1:], triggered=False), "end")
