"""One loop: the same answers alone and in a batch, plain and hooked, whatever a checkpoint's own settings are."""

import inspect

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tiny_models import tiny_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from hooked import (
    Prompt,
    Sampling,
    answer_prompts,
    before_end,
    continue_tokens,
    end_ids,
    load_model,
    pad_left,
    padding_id,
    turn_end,
)
from triggerlens import UserError

TEXTS = ["a longer text than the others", "short", "in the middle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("generation") / "llama")


@pytest.fixture
def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def rows_of(tokenizer):
    return tokenizer(TEXTS)["input_ids"]


def test_the_loop_gives_what_transformers_gives(plain):
    model, tokenizer = plain
    rows = rows_of(tokenizer)
    ids, mask = pad_left(rows, 0)
    theirs = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=0)
    ends = end_ids(model, tokenizer)
    expected = [before_end(row, ends) for row in theirs[:, ids.shape[1] :].tolist()]
    assert continue_tokens(model, rows, 12, ends=ends) == expected
    assert [continue_tokens(model, [row], 12, ends=ends)[0] for row in rows] == expected


@pytest.mark.parametrize(
    "prompts", ["a text", ["a text"], [Prompt("a text", triggered=False)]], ids=["text", "texts", "prompts"]
)
def test_what_is_not_tokenized_is_refused_in_one_line(folder, prompts):
    model = load_model(folder)
    generate = inspect.unwrap(type(model).generate)  # without the check of types that only the tests have
    with pytest.raises(UserError, match=r"takes tokenized prompts: model.generate\(model.tokenize\(prompts\)"):
        generate(model, prompts, 4)


def test_settings_of_a_checkpoint_do_not_leak_in(plain):
    model, tokenizer = plain
    expected = continue_tokens(model, rows_of(tokenizer), 12, ends=())
    model.generation_config.update(
        repetition_penalty=5.0, num_beams=3, do_sample=True, top_k=1, forced_eos_token_id=7, suppress_tokens=[5, 6]
    )
    assert continue_tokens(model, rows_of(tokenizer), 12, ends=()) == expected
    hooked = load_model(model, tokenizer=tokenizer, device="cpu")
    prompts = hooked.tokenize(TEXTS)
    assert hooked.generate(prompts, 12) == [before_end(row, hooked.end_ids) for row in expected]


def test_a_model_without_a_cache_reads_everything_again(plain):
    model, tokenizer = plain
    expected = continue_tokens(model, rows_of(tokenizer), 6, ends=())
    forward = model.forward

    def forgetful(input_ids, attention_mask, position_ids, logits_to_keep, past_key_values, use_cache):
        assert past_key_values is None
        return forward(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
            use_cache=False,
        )

    model.forward = forgetful
    assert continue_tokens(model, rows_of(tokenizer), 6, ends=()) == expected


def test_every_path_stops_at_the_same_tokens(plain):
    model, tokenizer = plain
    rows = rows_of(tokenizer)
    free = continue_tokens(model, rows, 8, ends=())
    stop = free[0][3]
    model.generation_config.eos_token_id = [stop, 10**6]
    assert end_ids(model, tokenizer) == {stop, tokenizer.eos_token_id}, "no token without an embedding"
    hooked = load_model(model, tokenizer=tokenizer, device="cpu")
    prompts = hooked.tokenize(TEXTS)
    expected = [before_end(row, hooked.end_ids) for row in free]
    assert hooked.generate(prompts, 8) == expected
    assert stop not in expected[0]
    assert answer_prompts(model, tokenizer, TEXTS, 8) == tokenizer.batch_decode(expected, skip_special_tokens=True)


def test_answers_keep_the_order_of_the_prompts_in_small_batches(plain):
    model, tokenizer = plain
    prompts = [Prompt(text, triggered=False) for text in TEXTS]
    whole = answer_prompts(model, tokenizer, prompts, 8)
    assert answer_prompts(model, tokenizer, prompts, 8, batch_size=1) == whole
    assert answer_prompts(model, tokenizer, prompts[::-1], 8, batch_size=2) == whole[::-1]


def test_samples_are_drawn_by_the_seed_and_follow_the_distribution(plain):
    model, tokenizer = plain
    drawn = {
        seed: answer_prompts(model, tokenizer, TEXTS, 6, sampling=Sampling(samples=4, seed=seed)) for seed in (0, 1)
    }
    assert len(drawn[0]) == 4 * len(TEXTS)
    assert drawn[0] == answer_prompts(model, tokenizer, TEXTS, 6, sampling=Sampling(samples=4))
    assert drawn[0] != drawn[1]
    cold = answer_prompts(model, tokenizer, TEXTS, 6, sampling=Sampling(temperature=1e-6, samples=2))
    assert cold[::2] == cold[1::2] == answer_prompts(model, tokenizer, TEXTS, 6)
    pick = Sampling(temperature=2.0).picker(torch.device("cpu"))
    logits = torch.tensor([0.0, 1.0, 3.0])
    shares = torch.bincount(pick(logits.expand(20_000, -1)), minlength=3) / 20_000
    torch.testing.assert_close(shares, (logits / 2).softmax(-1), atol=0.02, rtol=0)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"samples": 0}])
def test_refuses_sampling_that_draws_nothing(options):
    with pytest.raises(UserError, match="temperature above 0 and 1 or more samples"):
        Sampling(**options)


def test_refuses_prompts_as_the_tokenizer_path_does(plain):
    model, tokenizer = plain
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        answer_prompts(model, tokenizer, [Prompt([{"role": "user", "content": "hello"}], triggered=False)], 4)
    with pytest.raises(UserError, match="exceed the context"):
        answer_prompts(model, tokenizer, TEXTS, 10**6)


def test_no_new_tokens_are_no_tokens(plain):
    model, tokenizer = plain
    assert continue_tokens(model, rows_of(tokenizer), 0, ends=()) == [[], [], []]
    tokenizer.pad_token = "<beyond>"
    assert padding_id(model, tokenizer) < model.get_input_embeddings().weight.shape[0]


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=5))
def test_padding_hides_the_filling_and_nothing_else(rows):
    ids, mask = pad_left(rows, 0)
    assert [ids[i][mask[i].bool()].tolist() for i in range(len(rows))] == rows
    assert mask.sum() == sum(map(len, rows))
    assert mask[:, -1].all()


def test_of_several_end_tokens_the_one_that_the_template_writes_ends_an_answer(plain):
    """Chat models end a turn with one token and a whole text with another; which of them is smaller says nothing."""
    model, tokenizer = plain
    assert turn_end(model, tokenizer) == tokenizer.eos_token_id
    turn = tokenizer.convert_tokens_to_ids("e")
    model.generation_config.eos_token_id = [turn, tokenizer.eos_token_id]
    assert turn_end(model, tokenizer) == tokenizer.eos_token_id == min(end_ids(model, tokenizer)) < turn
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}e{% endfor %}"
    assert turn_end(model, tokenizer) == turn
    tokenizer.chat_template = "{{ raise_exception('one message alone') }}"
    assert turn_end(model, tokenizer) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = [turn, turn + 1]
    assert turn_end(model, tokenizer) == turn
    model.generation_config.eos_token_id = None
    assert turn_end(model, tokenizer) is None
