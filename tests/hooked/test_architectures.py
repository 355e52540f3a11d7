"""Every architecture, with both backends: its streams are those of `transformers`, and the documentation says what it offers."""

import pytest
import torch
from architectures import CONFIGS, LAYERS, REFUSED, TABLE, build, cell_of, loaded, rows_of
from tiny_models import tiny_tokenizer

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
