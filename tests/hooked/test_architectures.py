"""Every architecture, with both backends: its streams are those of `transformers`, and the documentation says what it offers."""

import pytest
import torch
from architectures import CONFIGS, LAYERS, REFUSED, TABLE, build, cell_of, loaded, rows_of
from tiny_models import tiny_tokenizer
from transformers import AutoModelForCausalLM, Gemma4TextConfig

from hooked import load_model
from triggerlens import UserError

BACKENDS = ("nnsight", "transformer-lens")
DOCUMENTED = rows_of(TABLE.read_text(encoding="utf-8"))
READ = [
    (name, backend)
    for name in CONFIGS
    for index, backend in enumerate(BACKENDS)
    if DOCUMENTED.get(name, ["", ""])[index] != "not read"
]


def test_the_documentation_has_every_architecture_and_leaves_none_unread():
    assert list(DOCUMENTED) == list(CONFIGS)
    assert all(nnsight != "not read" for nnsight, _ in DOCUMENTED.values())


FLOAT32_ALONE = [(name, "transformer-lens") for name in ("olmo", "olmo2", "olmo3")]
"""TransformerLens itself stops there: its norms take float32."""


@pytest.mark.parametrize(("name", "backend"), READ)
@torch.no_grad()
def test_streams_are_those_of_transformers(name, backend, tmp_path):
    model, plain = loaded(name, backend, tmp_path)
    tokens = torch.tensor([[5, 9, 200, 17, 33, 250, 8, 101, 44], [7, 7, 150, 3, 90, 12, 255, 60, 2]])
    # The last layer's hidden states are given after the final norm; its block's output is seen through the logits.
    expected = plain(tokens, output_hidden_states=True)
    sites = [f"resid_post.{layer}" for layer in range(LAYERS - 1)]
    run = model.run(tokens, reads=sites)
    for layer, site in enumerate(sites):
        reference = expected.hidden_states[layer + 1]
        torch.testing.assert_close(
            run.activations[site] / reference.abs().max(), reference / reference.abs().max(), atol=1e-6, rtol=0
        )
    torch.testing.assert_close(run.logits, expected.logits, atol=2e-5, rtol=1e-4)
    same = model.run(
        tokens, edits={f"{kind}.1": torch.clone for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")}
    )
    torch.testing.assert_close(same.logits, expected.logits, atol=2e-5, rtol=1e-4)
    index = BACKENDS.index(backend)
    assert cell_of(model) == DOCUMENTED[name][index]


@pytest.mark.parametrize(
    ("name", "backend", "dtype"),
    [(name, backend, torch.bfloat16) for name, backend in READ if (name, backend) not in FLOAT32_ALONE]
    + [(name, "nnsight", torch.float16) for name in CONFIGS],
)
def test_sixteen_bits_have_the_sites_that_float32_has(name, backend, dtype, tmp_path):
    """What a check allows for rounding neither refuses a good model nor hides one of its sites."""
    model = load_model(build(name).to(dtype), tokenizer=tiny_tokenizer(tmp_path), backend=backend)
    assert cell_of(model) == DOCUMENTED[name][BACKENDS.index(backend)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_a_backend_computes_otherwise_is_refused_in_every_precision(dtype, tmp_path):
    """TransformerLens leaves out what this Falcon adds to its scores by position."""
    with pytest.raises(UserError, match="the logits differ from those of transformers"):
        load_model(build("falcon (rw)").to(dtype), tokenizer=tiny_tokenizer(tmp_path), backend="transformer-lens")


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_heads_that_differ_in_size_by_layer_are_cut_by_each_layers_own(backend, tmp_path):
    """Gemma 4 has larger heads where it attends to everything, and a norm after the projection that they go through."""
    options = {"head_dim": 8, "global_head_dim": 16, "hidden_size_per_layer_input": 0}
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    plain = tiny_gemma4(layer_types=kinds, **options)
    model = load_model(tiny_gemma4(layer_types=kinds, **options), tokenizer=tiny_tokenizer(tmp_path), backend=backend)
    given = {}
    for layer in range(3):
        projection = plain.model.layers[layer].self_attn.o_proj
        projection.register_forward_hook(lambda _, args, output, layer=layer: given.update({layer: output}))
    tokens = torch.tensor([[5, 9, 200, 17, 33]])
    plain(tokens)
    read = model.run(tokens, reads=model.sites("head_out")).activations
    for layer in range(3):
        heads = sum(read[f"head_out.{layer}.{head}"] for head in range(4))
        torch.testing.assert_close(heads, given[layer], atol=1e-5, rtol=1e-5)
    assert not {"q", "k", "v"} & set(model.kinds), "they would be cut at one size in every layer"


def test_a_model_whose_blocks_scale_the_stream_is_refused_in_a_line(tmp_path):
    model = tiny_gemma4(hidden_size_per_layer_input=0)
    model.model.layers[1].layer_scalar.fill_(0.5)
    with pytest.raises(UserError, match=r"self-check failed: resid_post\.1 "):
        load_model(model, tokenizer=tiny_tokenizer(tmp_path))


def tiny_gemma4(**options):
    torch.manual_seed(0)
    config = Gemma4TextConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=128, sliding_window=8, pad_token_id=0, **options,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_without_attention_is_refused_in_a_line(name, tmp_path):
    with pytest.raises(UserError, match="not supported"):
        load_model(build(name), tokenizer=tiny_tokenizer(tmp_path))


@torch.no_grad()
def test_a_head_that_attends_to_one_position_alone_hides_no_kind_of_site(tmp_path):
    """An edit elsewhere shows nothing in such a head, of which the others must then tell how heads stand."""
    name = "llama"
    plain, saturated = build(name), build(name)
    attention = saturated.model.layers[-1].self_attn
    attention.q_proj.weight[-attention.head_dim :] *= 1e4
    kinds = [load_model(model, tokenizer=tiny_tokenizer(tmp_path)).kinds for model in (plain, saturated)]
    assert kinds[0] == kinds[1]
    assert {"q", "k", "v", "pattern"} <= set(kinds[1])
