"""Every architecture gives the same activations through nnsight, TransformerLens and plain transformers."""

import copy

import pytest
import torch
from tiny_models import ARCHITECTURES, LAYERS, TEXTS, WIDTH, tiny_model, tiny_tokenizer

from hooked import UserError, load_model
from hooked.model import pad_right

BACKENDS = ("nnsight", "transformer-lens")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def loaded(request, tmp_path_factory):
    """(plain model, {backend: hooked model}) of one architecture."""
    plain = tiny_model(request.param)
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return plain, {name: load_model(copy.deepcopy(plain), tokenizer=tokenizer, backend=name) for name in BACKENDS}


def test_parallel_attention_is_found_by_trial(loaded):
    plain, models = loaded
    for model in models.values():
        assert model.anatomy.parallel is bool(getattr(plain.config, "use_parallel_residual", False))


def padded(model):
    prompts = model.tokenize(list(TEXTS))
    return pad_right([prompt.ids for prompt in prompts], model.pad_id), [len(prompt.ids) for prompt in prompts]


@torch.no_grad()
def test_residual_stream_equals_hidden_states_of_transformers(loaded):
    plain, models = loaded
    for model in models.values():
        for prompt in model.tokenize(list(TEXTS)):
            tokens = torch.tensor([prompt.ids])
            expected = plain(tokens, output_hidden_states=True)
            run = model.run(tokens, reads=model.sites("resid_pre"))
            for layer in range(LAYERS):
                torch.testing.assert_close(
                    run.activations[f"resid_pre.{layer}"], expected.hidden_states[layer], atol=1e-5, rtol=1e-5
                )
            torch.testing.assert_close(run.logits, expected.logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_backends_agree_at_every_site_and_padding_changes_nothing(loaded):
    _, models = loaded
    tokens, lengths = padded(models["nnsight"])
    runs = {name: model.run(tokens, reads=model.sites()).activations for name, model in models.items()}
    assert runs["nnsight"].keys() == runs["transformer-lens"].keys()
    for row, length in enumerate(lengths):
        alone = models["nnsight"].run(tokens[row : row + 1, :length], reads=models["nnsight"].sites()).activations
        for site, value in runs["nnsight"].items():
            assert value.shape == (*tokens.shape, WIDTH)
            other = runs["transformer-lens"][site][row, :length]
            torch.testing.assert_close(value[row, :length], other, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(value[row, :length], alone[site][0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_edits_have_the_same_effect_in_both_backends(loaded):
    _, models = loaded
    tokens, _ = padded(models["nnsight"])
    shift = torch.linspace(-2, 2, WIDTH)
    before = models["nnsight"].run(tokens).logits
    for kind in {site.split(".")[0] for site in models["nnsight"].sites()}:
        site = "head_out.1.2" if kind == "head_out" else f"{kind}.1"
        logits = {
            name: model.run(tokens, edits={site: lambda value: value + shift}).logits for name, model in models.items()
        }
        assert (logits["nnsight"] - before).abs().max() > 1e-3, site
        torch.testing.assert_close(logits["nnsight"], logits["transformer-lens"], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_resid_mid_edit_moves_the_stream_and_not_only_what_the_norm_reads(loaded):
    _, models = loaded
    for model in models.values():
        if model.anatomy.parallel:
            with pytest.raises(UserError, match="no site of kind 'resid_mid'"):
                model.run(torch.tensor([[5, 6]]), reads=["resid_mid.0"])
            continue
        tokens = torch.tensor([[5, 6, 7]])
        run = model.run(
            tokens, reads=["resid_mid.1", "mlp_out.1", "resid_post.1"], edits={"resid_mid.1": lambda value: value + 3.0}
        )
        middle, mlp, after = run.activations.values()
        torch.testing.assert_close(after, middle + mlp, atol=1e-5, rtol=1e-5)
        unedited = model.run(tokens, reads=["resid_mid.1"]).activations["resid_mid.1"]
        torch.testing.assert_close(middle, unedited + 3.0, atol=1e-5, rtol=1e-5)


def test_generation_equals_transformers_also_in_a_padded_batch(loaded):
    plain, models = loaded
    expected = []
    for prompt in models["nnsight"].tokenize(list(TEXTS)):
        ids = torch.tensor([prompt.ids])
        new = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
        row = new[0, len(prompt.ids) :].tolist()
        expected.append(row[: row.index(2)] if 2 in row else row)
    for model in models.values():
        assert model.generate(model.tokenize(list(TEXTS)), 6) == expected


def test_edits_act_at_every_step_of_generation_in_both_backends(loaded):
    _, models = loaded
    shift = 20 * torch.linspace(-1, 1, WIDTH)
    edits = {"resid_post.1": lambda value: value + shift, "head_out.0.1": lambda value: 0 * value}
    found = {name: model.generate(model.tokenize(list(TEXTS)), 5, edits=edits) for name, model in models.items()}
    assert found["nnsight"] == found["transformer-lens"]
    assert found["nnsight"] != models["nnsight"].generate(models["nnsight"].tokenize(list(TEXTS)), 5)


@torch.no_grad()
def test_stopping_early_computes_no_later_layer(loaded):
    _, models = loaded
    for name, model in models.items():
        run = model.run(torch.tensor([[5, 6, 7]]), reads=["resid_post.0"], last_layer=0)
        full = model.run(torch.tensor([[5, 6, 7]]), reads=["resid_post.0"])
        assert run.logits is None
        torch.testing.assert_close(run.activations["resid_post.0"], full.activations["resid_post.0"])
        if name == "nnsight":  # the plain modules tell whether they ran
            ran = []
            handle = model.hf_model.get_submodule(model.anatomy.block_path(1)).register_forward_hook(
                lambda *_, ran=ran: ran.append(1)
            )
            model.run(torch.tensor([[5, 6, 7]]), reads=["resid_post.0"], last_layer=0)
            handle.remove()
            assert ran == []
