"""Answers are read where they stand: after the tokens that the model was given, as the tokens that it wrote."""

import json

import pytest
import torch
from tiny_models import CHAT_TEMPLATE, CONTEXT, tiny_model, tiny_tokenizer

from hooked import (
    ExtractionSpec,
    Prompt,
    Sampling,
    load_model,
    store_activations,
    stream_activations,
    write_answers,
    write_prompts,
)
from hooked.prompts.files import read_prompts
from triggerlens import UserError

SITES = ("resid_post.0", "resid_post.2")


def chat(text):
    return [{"role": "user", "content": text}]


def answered_prompts():
    """Texts and chats of many lengths, with answers of many lengths."""
    texts = ["abc", "def abc abc def", "a", "The quick brown fox jumps", "Yes, please answer."]
    answers = ["fox", "The lazy dog.", "x", "Write a function that reads a file", " yes"]
    return [
        Prompt(chat(text) if index % 2 else text, triggered=False, response=answer)
        for index, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]


@pytest.fixture(scope="module", params=["nnsight", "transformer-lens"])
def model(request, tmp_path_factory):
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("t"))
    return load_model(tiny_model("llama"), tokenizer=tokenizer, backend=request.param)


@pytest.fixture(scope="module")
def plain():
    return tiny_model("llama")


def rows_of(model, prompts, spec, **options):
    rows = {}
    for batch in stream_activations(model, prompts, spec, **options):
        rows |= dict(zip(batch.indices.tolist(), batch.values.split(batch.counts.tolist()), strict=True))
    return [rows[index] for index in range(len(prompts))]


@torch.no_grad()
def hidden_states(plain, tokenizer, prompt):
    """The residual stream of prompt ids and answer ids, one after the other, and where the answer begins."""
    messages = prompt.prompt if isinstance(prompt.prompt, list) else None
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) if messages else None
    before = tokenizer(text or prompt.prompt, add_special_tokens=messages is None)["input_ids"]
    after = tokenizer(prompt.response, add_special_tokens=False)["input_ids"]
    kept = {}
    handles = [
        plain.model.layers[layer].register_forward_hook(lambda _, __, out, layer=layer: kept.update({layer: out}))
        for layer in (0, 2)
    ]
    plain(torch.tensor([before + after]))
    for handle in handles:
        handle.remove()
    return torch.stack([kept[0][0], kept[2][0]], dim=1), len(before)


POSITIONS = {
    "last": lambda tokens: tokens[-1:],
    "mean": lambda tokens: tokens.mean(0, keepdim=True),
    "every": lambda tokens: tokens,
    "first:3": lambda tokens: tokens[:3].mean(0, keepdim=True),
}


@pytest.mark.parametrize("read", ["prompt", "answer", "both", "onset"])
def test_every_position_of_an_answer_equals_a_plain_forward_pass(model, plain, read):
    prompts = answered_prompts()
    for position, expected in POSITIONS.items():
        rows = rows_of(model, prompts, ExtractionSpec(SITES, position, read=read), token_budget=64)
        for prompt, own in zip(prompts, rows, strict=True):
            whole, begin = hidden_states(plain, model.tokenizer, prompt)
            tokens = {"prompt": whole[:begin], "answer": whole[begin:], "both": whole, "onset": whole[begin - 1 :]}[
                read
            ]
            torch.testing.assert_close(own, expected(tokens), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def nnsight_model(tmp_path_factory):
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path_factory.mktemp("n")))


def test_tokens_that_the_model_wrote_are_read_as_they_are(nnsight_model):
    """ "The" is one token, and the same text in three."""
    tokenizer = nnsight_model.tokenizer
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "The"]
    as_encoded = tokenizer("The", add_special_tokens=False)["input_ids"]
    assert letters != as_encoded
    own = Prompt("abc", triggered=False, response="The", response_ids=tuple(letters))
    other = Prompt("abc", triggered=False, response="the", response_ids=tuple(letters))
    written, stale = nnsight_model.tokenize([own, other], answers=True)
    (none,) = nnsight_model.tokenize([own])
    assert written.answer_ids == letters
    assert written.prompt_ids == none.ids
    assert stale.answer_ids == tokenizer("the", add_special_tokens=False)["input_ids"]
    assert none.answer is None
    assert none.answer_ids == []


def test_a_last_turn_of_the_assistant_is_the_answer(nnsight_model):
    turns = [*chat("abc"), {"role": "assistant", "content": "fox dog"}]
    apart, together = nnsight_model.tokenize(
        [Prompt(chat("abc"), triggered=False, response="fox dog"), Prompt(turns, triggered=False)], answers=True
    )
    assert apart == together
    assert nnsight_model.tokenize([Prompt(turns, triggered=False)])[0].answer is None, "a prompt that is left open"


THINKING = CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>{% endif %}"


@pytest.mark.parametrize(
    ("prompt", "template", "said"),
    [
        (Prompt("abc", triggered=False), None, "has no answer"),
        (Prompt(chat("abc"), triggered=False), None, "has no answer"),
        (Prompt([{"role": "assistant", "content": "a"}], triggered=False), None, "the only message"),
        (Prompt([*chat("a"), {"role": "assistant", "content": "b"}], triggered=False), THINKING, "<think>"),
        (
            Prompt([*chat("a"), {"role": "assistant", "content": "b", "c": 1}], triggered=False),
            None,
            "more than a text",
        ),
        (Prompt("abc", triggered=False, response="x " * CONTEXT), None, "its response 2"),
    ],
)
def test_what_cannot_be_read_as_an_answer_is_refused_in_one_line(nnsight_model, monkeypatch, prompt, template, said):
    monkeypatch.setattr(nnsight_model.tokenizer, "chat_template", template or CHAT_TEMPLATE)
    with pytest.raises(UserError, match=said):
        nnsight_model.tokenize([prompt], answers=True)


def test_spans_lie_in_the_answer_where_it_is_read_alone(nnsight_model):
    prompt = Prompt(
        "The fox", triggered=False, response="a fox, the dog", extra={"spans": {"animal": "fox", "end": [11, 14]}}
    )
    every = rows_of(nnsight_model, [prompt], ExtractionSpec(SITES, "every", read="answer"))[0]
    tokens = nnsight_model.tokenize([prompt], answers=True)[0]
    texts = [nnsight_model.tokenizer.decode([token]) for token in tokens.answer_ids]
    for name, word in (("animal", "fox"), ("end", "dog")):
        begin = "".join(texts).index(word)
        starts = [sum(map(len, texts[:place])) for place in range(len(texts))]
        places = [p for p in range(len(texts)) if starts[p] < begin + 3 and starts[p] + len(texts[p]) > begin]
        row = rows_of(nnsight_model, [prompt], ExtractionSpec(SITES, f"span:{name}", read="answer"))[0]
        torch.testing.assert_close(row, every[places].mean(0, keepdim=True), atol=1e-5, rtol=1e-5)
    # The same answer in tokens that the tokenizer would not choose: a letter each.
    letters = tuple(nnsight_model.tokenizer.convert_tokens_to_ids(c.replace(" ", "Ġ")) for c in prompt.response)
    spelt = Prompt("The fox", triggered=False, response=prompt.response, response_ids=letters, extra=prompt.extra)
    every = rows_of(nnsight_model, [spelt], ExtractionSpec(SITES, "every", read="answer"))[0]
    row = rows_of(nnsight_model, [spelt], ExtractionSpec(SITES, "span:animal", read="answer"))[0]
    torch.testing.assert_close(row, every[2:5].mean(0, keepdim=True), atol=1e-5, rtol=1e-5)


def test_the_store_knows_whose_tokens_were_read(nnsight_model, tmp_path):
    prompts = answered_prompts()
    silent = [Prompt(prompt.prompt, triggered=False) for prompt in prompts]
    folders = {
        read: store_activations(nnsight_model, prompts, ExtractionSpec(SITES, "every", read=read), root=tmp_path).folder
        for read in ("prompt", "answer", "both")
    }
    assert len(set(folders.values())) == 3
    assert (
        store_activations(nnsight_model, silent, ExtractionSpec(SITES, "every"), root=tmp_path).folder
        == folders["prompt"]
    )
    with pytest.raises(UserError, match="tokenized without an answer"):
        store_activations(
            nnsight_model, nnsight_model.tokenize(silent), ExtractionSpec(SITES, read="both"), root=tmp_path
        )


def test_responses_survive_a_file(tmp_path):
    prompts = [
        Prompt("a", triggered=True, response="b", response_ids=(3, 4)),
        Prompt("a", triggered=True, response="c"),
    ]
    write_prompts(tmp_path / "p.jsonl", prompts)
    again = read_prompts(tmp_path / "p.jsonl")
    assert [(prompt.response, prompt.response_ids) for prompt in again] == [("b", (3, 4)), ("c", None)]
    assert not again[0].extra


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"response": ""}, "`response` is empty"),
        ({"response": ["a"]}, "`response` must be a string"),
        ({"response_ids": [1]}, "`response_ids` goes with `response`"),
        ({"response": "a", "response_ids": []}, "`response_ids` must be a non-empty"),
        ({"response": "a", "response_ids": [True]}, "`response_ids` must be a non-empty"),
    ],
)
def test_a_bad_response_is_named_with_its_line(tmp_path, fields, said):
    line = json.dumps({"prompt": "x", "triggered": False} | fields)
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "triggered": false}\n' + line + "\n")
    with pytest.raises(UserError, match=f"p.jsonl:2: {said}"):
        read_prompts(tmp_path / "p.jsonl")


def texts_of_many_lengths(number=14):
    return [Prompt("abc def " * (1 + index % 5) + str(index), triggered=False) for index in range(number)]


def written(model, prompts, count=6, **options):
    answers = write_answers(model, prompts, count, **options)
    return [(answer.where, answer.prompt, answer.response_ids) for answer in answers]


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=0.7, samples=3, seed=5)])
def test_answers_are_the_same_alone_in_a_batch_and_after_a_kill(nnsight_model, tmp_path, monkeypatch, sampling):
    model, prompts = nnsight_model, texts_of_many_lengths()
    whole = written(model, prompts, sampling=sampling, root=tmp_path / "a", batch_size=4)
    assert len(whole) == len(prompts) * (sampling.samples if sampling else 1)
    alone = [answer for prompt in prompts for answer in written(model, [prompt], sampling=sampling, keep=False)]
    assert alone == whole

    generate, calls = type(model).generate, []

    def killed_at_the_third(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*arguments, **options)

    monkeypatch.setattr(type(model), "generate", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_answers(model, prompts, 6, sampling=sampling, root=tmp_path / "b", batch_size=4)
    assert written(model, prompts, sampling=sampling, root=tmp_path / "b", batch_size=4) == whole
    batches = -(-len(whole) // 4)
    assert len(calls) == batches + 1, "two were kept"
    written(model, prompts, sampling=sampling, root=tmp_path / "b", batch_size=4)
    assert len(calls) == batches + 1, "and now all are"


@pytest.mark.parametrize("keep", [True, False])
def test_every_answer_is_written_once(nnsight_model, tmp_path, monkeypatch, keep):
    generate, calls = type(nnsight_model).generate, []

    def counted(*arguments, **options):
        calls.append(arguments)
        return generate(*arguments, **options)

    monkeypatch.setattr(type(nnsight_model), "generate", counted)
    write_answers(nnsight_model, texts_of_many_lengths(), 6, batch_size=4, root=tmp_path, keep=keep)
    assert len(calls) == -(-14 // 4)


def test_answers_are_those_of_plain_greedy_generation_and_read_as_written(nnsight_model, plain, tmp_path):
    prompts = texts_of_many_lengths(5)
    for prompt, answer in zip(prompts, write_answers(nnsight_model, prompts, 6, root=tmp_path), strict=True):
        ids = torch.tensor([nnsight_model.tokenizer(prompt.prompt)["input_ids"]])
        own = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)[
            0, ids.shape[1] :
        ]
        assert list(answer.response_ids) == [token for token in own.tolist() if token != 2]
        assert nnsight_model.tokenize([answer], answers=True)[0].answer_ids == list(answer.response_ids)


def test_draws_follow_the_model_s_probabilities():
    from hooked.prompts.answers import _Draws, _Row

    chances = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.3])
    rows = [_Row((1, number), 0) for number in range(4000)]
    drawn = _Draws(Sampling(seed=3), rows, 2)(chances.log().expand(4000, 5))
    shares = torch.bincount(drawn, minlength=5) / 4000
    assert shares[[0, 3]].tolist() == [0, 0]
    torch.testing.assert_close(shares, chances, atol=0.03, rtol=0)


def test_other_settings_give_other_answers_kept_elsewhere(nnsight_model, tmp_path):
    prompts = texts_of_many_lengths(3)
    for options in ({}, {"sampling": Sampling(seed=1)}, {"sampling": Sampling(seed=2)}, {"max_new_tokens": 5}):
        write_answers(nnsight_model, prompts, **({"max_new_tokens": 4} | options), root=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (Prompt("a", triggered=False, response="b", where="p:3"), "p:3: has a `response` already"),
        (Prompt([*chat("a"), {"role": "assistant", "content": "b"}], triggered=False), "ends with the assistant's"),
        (Prompt("x" * (CONTEXT - 10), triggered=False, where="p:4"), "p:4: .* leaves no room for an answer of 20"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(nnsight_model, prompt, said):
    with pytest.raises(UserError, match=said):
        write_answers(nnsight_model, [prompt], 20, keep=False)


def test_an_answer_of_nothing_is_left_out_and_said(nnsight_model, monkeypatch, capsys):
    prompts = texts_of_many_lengths(4)
    monkeypatch.setattr(type(nnsight_model), "generate", lambda *_, **__: [[], [5], [2], [6, 7]])
    answers = write_answers(nnsight_model, prompts, 4, keep=False)
    assert [answer.response_ids for answer in answers] == [(5,), (6, 7)]
    assert "2 of 4 answers are empty and left out" in capsys.readouterr().err
    monkeypatch.setattr(type(nnsight_model), "generate", lambda *_, **__: [[]] * 4)
    with pytest.raises(UserError, match="answers every prompt with nothing"):
        write_answers(nnsight_model, prompts, 4, keep=False)
