"""Every architecture gives the same activations through nnsight, TransformerLens and plain transformers."""

import copy

import pytest
import torch
from tiny_models import ARCHITECTURES, LAYERS, TEXTS, WIDTH, tiny_model, tiny_tokenizer

from hooked import load_model, pad_right
from triggerlens import UserError

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
def test_reading_alone_gives_what_reading_beside_an_edit_gives_and_leaves_no_hook(loaded):
    _, models = loaded
    tokens, _ = padded(models["nnsight"])
    for model in models.values():
        sites = [site for kind in model.kinds for site in model.sites(kind)]
        alone = model.run(tokens, reads=sites)
        beside = model.run(tokens, reads=sites, edits={"resid_pre.0": torch.clone})
        torch.testing.assert_close(alone.logits, beside.logits, atol=1e-5, rtol=1e-5)
        for site in sites:
            torch.testing.assert_close(alone.activations[site], beside.activations[site], atol=1e-5, rtol=1e-5)

        def fail(_):
            raise KeyError("from a reader")

        with pytest.raises(KeyError, match="from a reader"):
            model.run(tokens, reads={sites[0]: fail})
        assert model.run(tokens).logits is not None, "the failed reader is gone"


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


INNER = ("q", "k", "v", "pattern")


def inner_sites(model):
    return [site for kind in INNER for site in model.sites(kind)]


@torch.no_grad()
def test_the_sites_inside_attention_are_transformer_lens_own(loaded):
    """`hook_q`, `hook_k`, `hook_v` and `hook_pattern`, through both backends; grouped queries share keys and values."""
    _, models = loaded
    tokens = torch.tensor([list(range(5, 17))])
    _, cache = models["transformer-lens"].bridge.run_with_cache(tokens)
    for model in models.values():
        assert len(model.sites("k")) == LAYERS * model.info.n_kv_heads
        for site, value in model.run(tokens, reads=inner_sites(model)).activations.items():
            kind, layer, head = site.split(".")
            theirs = cache[f"blocks.{layer}.attn.hook_{kind}"]
            expected = theirs[:, int(head)] if kind == "pattern" else theirs[:, :, int(head)]
            assert value.shape == (1, 12, 12 if kind == "pattern" else model.info.d_head)
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_edits_inside_attention_have_the_same_effect_in_both_backends(loaded):
    _, models = loaded
    tokens = torch.tensor([list(range(5, 17))])
    before = models["nnsight"].run(tokens).logits
    for kind in INNER:
        site = models["nnsight"].sites(kind)[-1]  # the last layer's last head
        edits = {site: lambda value: 0.5 * value.roll(1, 1)}
        logits = {name: model.run(tokens, edits=edits).logits for name, model in models.items()}
        assert (logits["nnsight"] - before).abs().max() > 1e-3, site
        torch.testing.assert_close(logits["nnsight"], logits["transformer-lens"], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_pattern_is_the_softmax_of_queries_with_keys_and_mixes_the_values(tmp_path):
    model = load_model(tiny_model("gpt2"), tokenizer=tiny_tokenizer(tmp_path))
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    results = model.run(tokens, reads=[*inner_sites(model), *model.sites("head_out")]).activations
    q, k, v, pattern = (results[f"{kind}.1.2"][0] for kind in INNER)
    scores = (q @ k.T / model.info.d_head**0.5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(pattern, scores.softmax(-1))
    torch.testing.assert_close(results["head_out.1.2"][0], pattern @ v @ model.head_weights(1, 2).T)


@torch.no_grad()
def test_the_model_attends_as_before_once_patterns_were_read(loaded):
    plain, models = loaded
    model = models["nnsight"]
    tokens = torch.tensor([[5, 6, 7]])
    usual = model.hf_model.config._attn_implementation
    model.run(tokens, reads=["pattern.0.0"], last_layer=0)
    with pytest.raises(UserError, match="must return a tensor"):
        model.run(tokens, edits={"pattern.1.0": lambda value: value[..., :2]})
    assert model.hf_model.config._attn_implementation == usual
    torch.testing.assert_close(model.run(tokens).logits, plain(tokens).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [{}, {"c_attn": ("interleaved",)}])
def test_a_model_lacks_the_sites_inside_attention_where_they_are_not_what_their_names_say(
    tmp_path, monkeypatch, backend, layout
):
    """Not results by name, or results in a layout that the trial refutes: it loads, and says so when they are asked for."""
    monkeypatch.setattr("hooked.backends.anatomy._FUSED", layout)
    if layout and backend == "transformer-lens":
        pytest.skip("the bridge splits the projection itself")
    model = load_model(tiny_model("gpt2"), tokenizer=tiny_tokenizer(tmp_path), backend=backend)
    for site in ("q.0.0", "pattern.0.0"):
        with pytest.raises(UserError, match="has no site of kind"):
            model.run(torch.tensor([[5, 6]]), reads=[site])
    assert model.sites("head_out")


def test_heads_of_keys_and_values_are_counted_as_such(tmp_path):
    model = load_model(tiny_model("qwen2"), tokenizer=tiny_tokenizer(tmp_path))
    model.check_sites(["q.0.3", "pattern.0.3", "k.0.1"])
    with pytest.raises(UserError, match=r"no site k\.0\.3: .* heads 0 to 1 there"):
        model.check_sites(["k.0.3"])
    with pytest.raises(UserError, match=r"unknown site 'q\.0'"):
        model.check_sites(["q.0"])


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
    edits = {
        "resid_post.1": lambda value: value + shift,
        "head_out.0.1": lambda value: 0 * value,
        "pattern.2.1": lambda value: 0 * value,
        "v.1.0": lambda value: -value,
    }
    results = {name: model.generate(model.tokenize(list(TEXTS)), 5, edits=edits) for name, model in models.items()}
    assert results["nnsight"] == results["transformer-lens"]
    assert results["nnsight"] != models["nnsight"].generate(models["nnsight"].tokenize(list(TEXTS)), 5)


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


@torch.no_grad()
def test_the_last_layer_s_mlp_runs_at_the_needed_positions_alone(loaded):
    """At these every site is what a whole run gives; elsewhere that MLP saw nothing, and added nothing."""
    _, models = loaded
    tokens, lengths = padded(models["nnsight"])
    needed = torch.arange(tokens.shape[1]) == torch.tensor(lengths)[:, None] - 1
    for model in models.values():
        sites = [site for site in model.sites() if int(site.split(".")[1]) < 2]
        seen = []
        handles = [
            model.mlp(layer).register_forward_hook(lambda _, args, out, seen=seen: seen.append(args[0].shape[:2]))
            for layer in (0, 1)
        ]
        whole = model.run(tokens, reads=sites, last_layer=1).activations
        part = model.run(tokens, reads=sites, last_layer=1, needed=needed).activations
        for site, value in part.items():
            inside = needed if site in ("mlp_out.1", "resid_post.1") else torch.ones_like(needed)
            torch.testing.assert_close(value[inside], whole[site][inside], atol=1e-5, rtol=1e-5)
        assert not part["mlp_out.1"][~needed].any()
        edited = model.run(tokens, reads=sites, edits={"resid_pre.0": torch.clone}, last_layer=1, needed=needed)
        for site, value in edited.activations.items():  # beside an edit everything runs, and no hook is left
            torch.testing.assert_close(value, whole[site], atol=1e-5, rtol=1e-5)
        assert seen == [tokens.shape] * 3 + [(1, len(lengths))] + [tokens.shape] * 2
        for handle in handles:
            handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("layer", range(LAYERS))
def test_an_mlp_that_looks_at_other_positions_always_runs_at_all_of_them(tmp_path, layer):
    class Looking(torch.nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.mlp = mlp

        def forward(self, value):
            return self.mlp(value + value.cumsum(1))

    plain = tiny_model("gpt2")
    plain.transformer.h[layer].mlp = Looking(plain.transformer.h[layer].mlp)
    model = load_model(plain, tokenizer=tiny_tokenizer(tmp_path))
    tokens, _ = padded(model)
    whole, part = (
        model.run(tokens, reads=[f"resid_post.{layer}"], last_layer=layer, needed=needed).activations
        for needed in (None, torch.arange(tokens.shape[1]).expand_as(tokens) == 0)
    )
    assert torch.equal(whole[f"resid_post.{layer}"], part[f"resid_post.{layer}"])
