"""Four threads on one model get what each gets alone: reading, editing, generating, streaming and tokenizing."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from hooked import ExtractionSpec, Prompt, load_model, stream_activations

TEXTS = ["hello", "another one that is longer", "third prompt", "x y z"]
CHAT = [Prompt([{"role": "user", "content": text}], triggered=False) for text in TEXTS]
SITES = ("resid_post.0", "mlp_out.1", "head_out.2.1")


def jobs(model):
    """Calls that would see each other's hooks, caches or padding if they ran at once."""
    tokens = model.tokenize(TEXTS)
    edits = {"resid_post.0": lambda value: value * 1.5}

    def run(index):
        ids = torch.tensor([tokens[index % 4].ids])
        read = model.run(ids, reads=[*SITES, "pattern.1.0"], edits=edits if index % 2 else None)
        return [read.logits, *read.activations.values()]

    def stopped(index):
        ids = torch.tensor([tokens[index % 4].ids])
        return list(model.run(ids, reads=["resid_post.0"], last_layer=0).activations.values())

    def generated(index):
        return model.generate(tokens[: 1 + index % 4], 6, edits=edits if index % 2 else None)

    def streamed(index):
        spec = ExtractionSpec(("resid_post.1",), ("last", "mean", "every")[index % 3])
        return [part for batch in stream_activations(model, TEXTS, spec) for part in (batch.indices, batch.values)]

    def tokenized(index):
        return [(prompt.ids, prompt.text) for prompt in model.tokenize([*TEXTS, *CHAT] * (1 + index % 3))]

    return [
        lambda job=job, index=index: job(index)
        for index in range(6)
        for job in (run, stopped, generated, streamed, tokenized)
    ]


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
def test_four_threads_on_one_model(backend, tmp_path):
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path), backend=backend)
    calls = jobs(model)
    alone = [call() for call in calls]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda call: call(), calls * 2))
    wrong = [index for index, answer in enumerate(together) if not same(answer, alone[index % len(calls)])]
    assert wrong == []


def test_two_hooked_models_over_one_plain_model(tmp_path):
    plain, tokenizer = tiny_model("llama"), tiny_tokenizer(tmp_path)
    models = [load_model(plain, tokenizer=tokenizer) for _ in range(2)]
    calls = [call for model in models for call in jobs(model)]
    alone = [call() for call in calls]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda call: call(), calls))
    assert all(map(same, together, alone))
    assert models[0].alone() is models[1].alone()


def test_a_thread_that_fails_leaves_the_model_to_the_others(tmp_path):
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path))
    tokens = torch.tensor([model.tokenize(["hello"])[0].ids])
    expected = model.run(tokens).logits

    def broken(value):
        raise ValueError("on purpose")

    def attempt(index):
        if index % 2:
            with pytest.raises(ValueError, match="on purpose"):
                model.run(tokens, reads={"resid_post.1": broken})
        return model.run(tokens).logits

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(logits, expected) for logits in pool.map(attempt, range(12)))
