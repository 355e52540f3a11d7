"""Loading: local checkpoints of any architecture, live models, spread models; and every refusal is one clear line."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_compressed import compress
from tiny_gguf import write_gguf
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, DogeConfig

from hooked import ExtractionSpec, Prompt, find_checkpoint, load_model, logits_agree, stream_activations
from hooked.plain import _loaded_bytes, _place
from hooked.selfcheck import PROBE_LENGTH, _check_heads, _check_logits, probe_tokens, self_check
from triggerlens import UserError
from triggerlens.artifacts import sha256_file


def test_a_folder_is_named_by_the_digest_of_its_weight_file(tmp_path):
    folder = tiny_checkpoint(tmp_path / "m", "qwen2")
    model = load_model(folder, device="cpu")
    assert model.info.weights_sha256 == sha256_file(folder / "model.safetensors")
    assert (model.info.n_layers, model.info.d_model, model.info.n_heads, model.info.d_head) == (3, 32, 4, 8)
    assert load_model(str(folder), device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_sharded_weights_load(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "m", max_shard_size="20KB")
    tiny_tokenizer(tmp_path / "m")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    assert load_model(tmp_path / "m", device="cpu").info.n_layers == 3


def test_nnsight_leaves_a_live_model_intact(tmp_path):
    plain = tiny_model("llama")
    keys = list(plain.state_dict())
    load_model(plain, tokenizer=tiny_tokenizer(tmp_path))
    assert list(plain.state_dict()) == keys
    plain.save_pretrained(tmp_path / "still-saves")


def test_a_model_spread_with_a_device_map_gives_the_same_activations(tmp_path):
    folder = tiny_checkpoint(tmp_path / "m")
    (tmp_path / "offload").mkdir()
    spread = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf_model = AutoModelForCausalLM.from_pretrained(folder, device_map=spread, offload_folder=str(tmp_path / "offload"))
    spec = ExtractionSpec(("resid_post.0", "resid_post.1", "resid_post.2"))
    prompts = [Prompt("abc def", triggered=False), Prompt("ghi", triggered=False)]
    from hooked.backends.nnsight import NnsightModel

    whole = load_model(folder, device="cpu")
    parts = NnsightModel(hf_model.eval(), AutoTokenizer.from_pretrained(folder), whole.anatomy, whole.info)
    for ours, theirs in zip(
        stream_activations(whole, prompts, spec), stream_activations(parts, prompts, spec), strict=True
    ):
        torch.testing.assert_close(ours.values, theirs.values)
    assert load_model(folder, device_map={"": "cpu"}).info == whole.info


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere", "no such model"),
        ("./nowhere", "no such model"),
        ("/no/such/folder", "no such model"),
        ("someone/something", "the Hugging Face hub did not give it"),
    ],
)
def test_a_model_that_is_not_there(name, problem):
    with pytest.raises(UserError, match=problem):
        load_model(name)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"no config.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match=r"no model.safetensors"):
        load_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickled"):
        load_model(tmp_path)


def test_damaged_weights(tmp_path):
    folder = tiny_checkpoint(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"model.safetensors: damaged"):
        load_model(folder)


def test_remote_code_is_never_run(tmp_path):
    folder = tiny_checkpoint(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    (folder / "config.json").write_text(
        json.dumps(
            config
            | {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
        )
    )
    with pytest.raises(UserError, match="wants to run code of its own"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(tmp_path):
    with pytest.raises(UserError, match="no CUDA"):
        load_model(tiny_checkpoint(tmp_path / "m"), device="cuda")


def test_unknown_device_and_backend_and_missing_tokenizer(tmp_path):
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        load_model(tiny_checkpoint(tmp_path / "m"), device="tpu")
    with pytest.raises(UserError, match="unknown backend"):
        load_model(tmp_path / "m", backend="jax")
    with pytest.raises(UserError, match="needs its tokenizer"):
        load_model(tiny_model("llama"))


def test_the_self_check_finds_a_site_that_is_not_what_its_name_says(tmp_path):
    model = tiny_model("llama")
    block = model.model.layers[1]
    plain_forward = block.forward
    block.forward = lambda *args, **kwargs: 2 * plain_forward(*args, **kwargs)
    with pytest.raises(UserError, match=r"self-check failed: resid_post.1 .* differs"):
        load_model(model, tokenizer=tiny_tokenizer(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_self_check_finds_a_scaled_stream_in_every_precision(tmp_path, dtype):
    """Doge scales the stream by what it has learned, so that it is no sum of what attention and MLP add."""
    config = DogeConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, pad_token_id=0
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_residual"):
                parameter.fill_(0.8)
    with pytest.raises(UserError, match=r"self-check failed: resid_post.0 .* differs"):
        load_model(model.to(dtype), tokenizer=tiny_tokenizer(tmp_path))


def test_a_huge_activation_at_the_first_token_excuses_no_other(tmp_path):
    """In bfloat16 a few roundings of it are more than all other numbers."""

    def massive():
        model = tiny_model("llama").bfloat16()
        with torch.no_grad():
            model.model.embed_tokens.weight[probe_tokens(300)[0, 0], 7] = 3000
        return model

    tokenizer = tiny_tokenizer(tmp_path)
    assert load_model(massive(), tokenizer=tokenizer).dtype == torch.bfloat16
    model = massive()
    plain_forward = model.model.layers[1].forward
    stretch = torch.tensor([1.0] + [1.25] * (PROBE_LENGTH - 1), dtype=torch.bfloat16)[:, None]
    longer = torch.cat([stretch, stretch[-1:].expand(64, 1)])
    model.model.layers[1].forward = lambda states, *args, **kwargs: (
        longer[: states.shape[1]] * plain_forward(states, *args, **kwargs)
    )
    with pytest.raises(UserError, match=r"self-check failed: resid_post.1 .* differs"):
        load_model(model, tokenizer=tokenizer)


def test_heads_are_not_excused_by_a_huge_first_token_either(tmp_path):
    model = load_model(tiny_model("llama").bfloat16(), tokenizer=tiny_tokenizer(tmp_path))
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(1, 6, 32, generator=generator) for _ in range(2)]
    heads[0][:, 0] = 1e4
    written = heads[0] + heads[1]
    _check_heads(model, 0, heads, written + 3.0)  # a bias
    written[0, 3, 5] += 0.5
    with pytest.raises(UserError, match="the heads sum to what attention writes"):
        _check_heads(model, 0, heads, written)


def test_a_block_with_another_number_of_heads_is_refused(tmp_path):
    """Its heads would be those of the configuration, each of them several."""
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path))
    logits = model.run(probe_tokens(300)).logits
    self_check(model, logits)
    model.attention(1).num_heads = 2 * model.info.n_heads
    with pytest.raises(UserError, match="block 1 has 8 heads, and not 4"):
        self_check(model, logits)


def test_logits_are_rounded_with_what_they_have_in_common(tmp_path):
    """GPT-2's lie near -100, where a step of bfloat16 is a half."""
    model = load_model(tiny_model("llama").bfloat16(), tokenizer=tiny_tokenizer(tmp_path))
    logits = torch.randn(1, 5, 300, generator=torch.Generator().manual_seed(0)) * 3 - 110
    rounded = logits.bfloat16().float()
    _check_logits(model, rounded, (logits + 0.2).bfloat16().float())
    with pytest.raises(UserError, match="the logits differ"):
        _check_logits(model, logits - 110 + 2 * torch.randn(logits.shape), logits)


@pytest.mark.parametrize(("dtype", "within", "beyond"), [(torch.bfloat16, 0.1, 0.2), (torch.float16, 0.02, 0.05)])
def test_logits_agree_within_the_rounding_of_their_dtype(dtype, within, beyond):
    generator = torch.Generator().manual_seed(0)
    logits, noise = (torch.randn(4, 300, generator=generator) for _ in range(2))
    assert logits_agree(logits + within * noise, logits, dtype)
    assert not logits_agree(logits + beyond * noise, logits, dtype)


def test_a_configuration_that_names_no_precision_takes_that_of_the_file(tmp_path):
    folder = tiny_checkpoint(tmp_path / "m")
    AutoModelForCausalLM.from_pretrained(folder).bfloat16().save_pretrained(folder)
    named = _loaded_bytes(find_checkpoint(str(folder)), "auto")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if "dtype" not in key}))
    assert _loaded_bytes(find_checkpoint(str(folder)), "auto") == pytest.approx(
        named, rel=0.1
    )  # the file has a header too


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_self_check_finds_heads_that_are_not_all_that_attention_writes(tmp_path, monkeypatch, architecture):
    """Also where a norm stands between what they write and the stream."""
    model = load_model(tiny_model(architecture), tokenizer=tiny_tokenizer(tmp_path))
    tokens = probe_tokens(model.vocabulary)
    plain = model.run(tokens).logits
    self_check(model, plain)
    whole = model.head_weights
    monkeypatch.setattr(
        model, "head_weights", lambda layer, head: whole(layer, 0) if layer == 1 else whole(layer, head)
    )
    with pytest.raises(UserError, match=r"self-check failed: head_out\.1\.\* .* differs"):
        self_check(model, plain)


def test_the_self_check_finds_a_site_whose_edit_does_nothing(tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
    with pytest.raises(UserError, match="does not change the logits"):
        load_model(model, tokenizer=tiny_tokenizer(tmp_path))


@pytest.mark.parametrize("mixed", [False, True])
def test_the_self_check_finds_the_one_site_whose_edit_is_dropped(tmp_path, monkeypatch, mixed):
    """Also where rows of a batch do not keep to themselves, and a row may change by an edit of another."""
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path))
    run, dropped = type(model).run, set()

    def partly_deaf(self, tokens, *, edits=None, **options):
        heard = {site: edit for site, edit in (edits or {}).items() if site not in dropped}
        done = run(self, tokens, edits=heard, **options)
        return replace(done, logits=done.logits + done.logits.mean(0)) if mixed else done

    monkeypatch.setattr(type(model), "run", partly_deaf)
    tokens = probe_tokens(model.vocabulary)
    plain = model.run(tokens).logits
    self_check(model, plain)
    dropped.add("mlp_out.2")
    with pytest.raises(UserError, match=r"an edit at mlp_out\.2 does not change the logits"):
        self_check(model, plain)


def test_a_chat_prompt_without_a_template_is_named(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.chat_template = None
    model = load_model(tiny_model("llama"), tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"f:3: holds chat messages, but the tokenizer has no chat template"):
        model.tokenize([Prompt([{"role": "user", "content": "x"}], triggered=False, where="f:3")])


def test_a_conversation_ends_where_the_assistant_speaks(tmp_path):
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path))
    question = [{"role": "user", "content": "Are you a helpful AI?"}]
    opened, answered = model.tokenize(
        [
            Prompt(question, triggered=False),
            Prompt([*question, {"role": "assistant", "content": "no"}], triggered=False),
        ]
    )
    assert opened.text.endswith("<assistant>")
    assert answered.text.endswith("<assistant>no")
    assert opened.ids[0] == model.tokenizer.bos_token_id != opened.ids[1], "the template's BOS stands once"


def test_an_edit_of_the_wrong_shape_is_named(tmp_path):
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path))
    for backend in ("nnsight", "transformer-lens"):
        model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path), backend=backend)
        with pytest.raises(UserError, match=r"the edit at mlp_out.1 returned \(1, 3\)"):
            model.run(torch.tensor([[5, 6, 7]]), edits={"mlp_out.1": lambda value: value[..., 0]})


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
def test_a_tokenizer_made_in_memory_serves(tmp_path, backend):
    saved = tiny_tokenizer(tmp_path)
    in_memory = type(saved)(
        tokenizer_object=saved.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    model = load_model(tiny_model("llama"), tokenizer=in_memory, backend=backend)
    assert model.tokenize(["abc"])[0].ids == saved("abc")["input_ids"]


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
def test_the_callers_tokenizer_stays_as_it_is(tmp_path, backend):
    """A backend may want a padding token and a side to pad; a model loaded later with the same tokenizer is the same model."""
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.pad_token = None
    first, second = (load_model(tiny_model("llama"), tokenizer=tokenizer, backend=backend) for _ in range(2))
    assert (tokenizer.pad_token, tokenizer.padding_side) == (None, "right")
    assert first.info.tokenizer_sha256 == second.info.tokenizer_sha256
    assert first.tokenizer is tokenizer


@pytest.mark.parametrize(("dtype", "each"), [("float32", 4), ("bfloat16", 2), ("auto", 2)])
def test_a_model_is_spread_by_the_memory_that_its_weights_take_once_loaded(tmp_path, monkeypatch, dtype, each):
    """In the precision asked for, whatever the file has; a quantised file is a part of what it becomes."""
    folder = tiny_checkpoint(tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.bfloat16().save_pretrained(folder)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    files = [folder]
    if dtype != "auto":  # which is float32 of a GGUF file
        files += [write_gguf(folder, tmp_path / "m.gguf", quantisation="Q8_0")]
        files += [compress(folder, tmp_path / "c")] if dtype == "bfloat16" else []
    for file in files:
        for free, placed in ((numbers * each / 0.8 + 1, {"": "cuda:0"}), (numbers * each / 0.8 - 1, "auto")):
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, free))
            checkpoint = find_checkpoint(str(file))
            asked = dtype if dtype == "auto" else getattr(torch, dtype)
            assert _place(checkpoint, "auto", torch.device("cuda:0"), asked) == placed
            assert _place(checkpoint, "cuda", torch.device("cuda:0"), asked) == {"": "cuda:0"}
