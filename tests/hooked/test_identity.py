"""What decides a number is in the identity: every field of a configuration, and every link from the text to the activations."""

import copy
import json
from datetime import date

import pytest
import torch
from architectures import build
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import hooked.identity
from hooked import ExtractionSpec, Prompt, identity_sha256, load_model, model_facts, store_activations
from hooked.identity import config_facts
from triggerlens import UserError

SAVED = ("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Where, by what and in which precision it was saved; the precision in memory is told apart by itself."""
NAMES = ("llama", "gpt2", "gemma3", "qwen3_moe", "falcon (40b)", "gpt_oss")
OTHER_NULLS = {"summary_activation": "tanh", "attn_logit_softcapping": 3.0, "final_logit_softcapping": 3.0}
OTHER_TEXTS = {
    "hidden_act": "relu",
    "activation_function": "relu",
    "hidden_activation": "relu",
    "rope_type": "linear",
    "activation": "relu",
}


def saved(name, folder):
    build(name).save_pretrained(folder)
    tiny_tokenizer(folder)
    return json.loads((folder / "config.json").read_text())


def leaves(value, path=()):
    """Every field, of nested objects and lists too."""
    if isinstance(value, dict) and value:
        return [leaf for key, part in value.items() for leaf in leaves(part, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for place, part in enumerate(value) for leaf in leaves(part, (*path, place))]
    return [path]


def changed(config, path):
    """A copy with another value of the same type at a path."""
    other = copy.deepcopy(config)
    owner = other
    for key in path[:-1]:
        owner = owner[key]
    value = owner[path[-1]]
    if isinstance(value, bool):
        new = not value
    elif isinstance(value, int | float):
        new = value + (1 if isinstance(value, int) else 0.125)
    elif isinstance(value, str):
        new = OTHER_TEXTS.get(path[-1], value + "x")
        if value in ("full_attention", "sliding_attention"):
            new = {"full_attention": "sliding_attention", "sliding_attention": "full_attention"}[value]
    else:
        new = {"a": 1} if isinstance(value, dict) else [1] if isinstance(value, list) else OTHER_NULLS.get(path[-1], 3)
    owner[path[-1]] = new
    return other


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_a_configuration_is_in_the_identity(name, tmp_path):
    config = saved(name, tmp_path)
    model = build(name)
    model.config = usual = AutoConfig.from_pretrained(tmp_path)
    identity = identity_sha256(model_facts(model, "w"))
    assert identity_sha256(model_facts(model, "w")) == identity
    unseen, loaded = set(), 0
    for path in leaves(config):
        other = changed(config, path)
        if path == ("sliding_window",) and "use_sliding_window" in config:
            other["use_sliding_window"] = True  # without which the window is not looked at
        (tmp_path / "config.json").write_text(json.dumps(other))
        try:
            model.config = AutoConfig.from_pretrained(tmp_path)
            loaded += 1
        except Exception:  # a configuration that is none: the live object is changed instead
            model.config = copy.deepcopy(usual)
            changed_in_memory(model.config, path, other)
        if identity_sha256(model_facts(model, "w")) == identity:
            unseen.add(path[0])
    # The model's type is that of its class, which the identity names too.
    assert unseen <= {*SAVED, "model_type"}
    assert loaded > 0.6 * len(leaves(config))


def changed_in_memory(live, path, other):
    value = other
    for key in path:
        value = value[key]
    if len(path) == 1:
        setattr(live, path[0], value)
        return
    owner = getattr(live, path[0])
    for key in path[1:-1]:
        owner = owner[key]
    owner[path[-1]] = value


def test_fields_of_a_nested_configuration_count_too_and_where_it_was_saved_does_not(tmp_path):
    config = saved("gemma3", tmp_path)
    from transformers import Gemma3Config, Gemma3TextConfig

    whole = Gemma3Config(text_config=Gemma3TextConfig(**config))
    identity = identity_sha256(config_facts(whole))
    for field in SAVED:
        other = copy.deepcopy(whole)
        setattr(other, field, "float16" if "dtype" in field else "elsewhere")
        assert identity_sha256(config_facts(other)) == identity, field
    whole.text_config.rms_norm_eps = 0.5
    assert identity_sha256(config_facts(whole)) != identity


def folder_of(model, prompts, root, **spec):
    return store_activations(model, prompts, ExtractionSpec(("resid_post.1",), **spec), root=root).folder.name


def adapted(seed=0, rank=2):
    """A live PEFT model with two adapters that are not nothing."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(tiny_model("llama"), config)
    model.add_adapter("second", config)
    return model.eval()


def test_every_link_of_the_chain_gives_another_address_and_the_same_things_the_same(tmp_path):
    tiny_checkpoint(tmp_path / "m")
    dated = (
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    chat = [Prompt([{"role": "user", "content": "abc def"}], triggered=False)]
    texts = [Prompt("abc def", triggered=False), Prompt("ghi", triggered=True)]
    seen = {}

    def note(what, prompts=texts, change=lambda model: None, position="last", dtype=None, **options):
        model = load_model(tmp_path / "m", device="cpu", **options)
        change(model)
        name = folder_of(model, prompts, tmp_path / "store", position=position, dtype=dtype)
        assert name == folder_of(model, prompts, tmp_path / "store", position=position, dtype=dtype), what
        assert name not in seen.values(), (what, next(key for key, value in seen.items() if value == name))
        seen[what] = name

    def template(text):
        return lambda model: setattr(model.tokenizer, "chat_template", text)

    def without_bos(model):
        from tokenizers import processors

        model.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()

    note("plain")
    note("another text", [Prompt("abc deg", triggered=False), texts[1]])
    note("another order", texts[::-1])
    note("another tokenizer", change=without_bos)
    note("chat", chat)
    note("another template", chat, template("{% for m in messages %}{{ m.content }}{% endfor %}"))
    note("a date", chat, template(dated))
    note("another date", chat, template(dated), today=date(2026, 2, 22))
    note("mean", position="mean")
    note("kept in half", dtype=torch.float16)
    note("attention", change=lambda model: model.hf_model.set_attn_implementation("eager"))
    note("transformer-lens", backend="transformer-lens")
    note("training", change=lambda model: model.hf_model.train())
    note("an optimiser's step", change=optimised)
    note("an assignment to data", change=assigned)
    note("a change of data in place", change=lambda model: first(model).data.mul_(1.01))
    note("one number", change=lambda model: first(model).data[3].select(0, 5).add_(1e-3))
    note("another parameter", change=replaced)
    tiny_checkpoint(tmp_path / "m", seed=1)
    note("other weights")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-2}))
    note("another epsilon")
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"transformers_version": "4.0.0"}))
    with pytest.raises(AssertionError, match="other weights"):
        note("where it was saved")


def first(model):
    return model.hf_model.model.layers[0].mlp.down_proj.weight


def optimised(model):
    optimizer = torch.optim.SGD(model.hf_model.parameters(), lr=1e-2)
    model.hf_model(torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    optimizer.step()


def assigned(model):
    first(model).data = first(model).data * 1.02


def replaced(model):
    model.hf_model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(first(model).detach() * 1.03)


def test_precision_and_versions_are_part_of_it(tmp_path, monkeypatch):
    folder = tiny_checkpoint(tmp_path / "m")
    names = {
        identity_sha256(load_model(folder, device="cpu", dtype=dtype).identity())
        for dtype in ("auto", "bfloat16", "float16")
    }
    assert len(names) == 3
    usual = load_model(folder, device="cpu")
    assert identity_sha256(usual.identity()) in names
    assert identity_sha256(load_model(folder, device="cpu").identity()) == identity_sha256(usual.identity())
    for library in ("torch", "transformers", "nnsight"):
        with monkeypatch.context() as patch:
            known = hooked.identity._versions()
            patch.setattr(hooked.identity, "_versions", lambda known=known, library=library: known | {library: "0"})
            assert identity_sha256(usual.identity()) not in names


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
def test_a_live_model_that_is_trained_in_place_is_another(backend, tmp_path):
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path), backend=backend)
    seen = [identity_sha256(model.identity())]
    assert identity_sha256(model.identity()) == seen[0]
    assert model.identity()["model"]["weights"] == model.info.weights_sha256
    model.generate(model.tokenize(["abc"]), 2)
    assert identity_sha256(model.identity()) == seen[0], "to run it changes nothing"
    parameter = next(parameter for parameter in model.hf_model.parameters() if parameter.ndim == 2)
    for change in (
        lambda: torch.optim.SGD([parameter], lr=0.1).step(),
        lambda: parameter.data.add_(0.01),
        lambda: setattr(parameter, "data", parameter.data * 1.01),
    ):
        parameter.grad = torch.ones_like(parameter)
        change()
        seen.append(identity_sha256(model.identity()))
    assert len(set(seen)) == 4


def test_adapters_active_switched_off_merged_and_scaled_are_told_apart(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path)
    live = adapted()
    model = load_model(live, tokenizer=tokenizer)
    seen = {}

    def note(what, same_as=None):
        name = identity_sha256(model.identity())
        assert name == identity_sha256(model.identity())
        assert (name == seen[same_as]) if same_as else (name not in seen.values()), what
        seen[what] = name

    layer = live.base_model.model.model.layers[0].self_attn.q_proj
    note("first")
    live.set_adapter("second")
    note("second")
    live.set_adapter("default")
    note("first again", same_as="first")
    layer.scaling["default"] *= 2
    note("scaled")
    layer.scaling["default"] /= 2
    note("scaled back", same_as="first")
    with live.disable_adapter():
        note("off")
    layer.lora_A["default"].weight.data.mul_(1.01)
    note("trained")
    live.merge_adapter()
    note("merged")
    note_of_base = identity_sha256(load_model(tiny_model("llama"), tokenizer=tokenizer).identity())
    assert note_of_base not in seen.values()


def test_a_peft_model_with_virtual_tokens_is_refused_by_name(tmp_path):
    from peft import PromptTuningConfig, TaskType, get_peft_model

    live = get_peft_model(tiny_model("llama"), PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4))
    with pytest.raises(UserError, match="PROMPT_TUNING puts virtual tokens before each prompt"):
        load_model(live, tokenizer=tiny_tokenizer(tmp_path))


def test_hooks_of_ones_own_have_no_name(tmp_path):
    tokenizer, plain = tiny_tokenizer(tmp_path), tiny_model("llama")
    before = identity_sha256(load_model(plain, tokenizer=tokenizer).identity())
    assert identity_sha256(load_model(plain, tokenizer=tokenizer).identity()) == before, "wrapped twice, it is the same"
    handle = plain.model.layers[0].mlp.register_forward_hook(lambda module, args, output: output * 2)
    steered = load_model(plain, tokenizer=tokenizer)
    other = load_model(plain, tokenizer=tokenizer)
    assert len({before, *(identity_sha256(model.identity()) for model in (steered, other))}) == 3
    handle.remove()
    assert identity_sha256(load_model(plain, tokenizer=tokenizer).identity()) == before


def activations(folder, root):
    model = load_model(folder, device="cpu")
    prompts = [Prompt("hello there", triggered=False)]
    got = next(store_activations(model, prompts, ExtractionSpec(("resid_post.1",)), root=root).batches())[1][:, 0]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.tensor([model.tokenize(prompts)[0].ids])
    expected = plain(tokens, output_hidden_states=True).hidden_states[2][0, -1:]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    return model.info.weights_sha256


def sharded(folder):
    tiny_model("llama").save_pretrained(folder, max_shard_size="20KB")
    tiny_tokenizer(folder)
    return folder


def test_an_old_index_beside_a_single_file_is_not_looked_at(tmp_path):
    folder = sharded(tmp_path / "m")
    shards = activations(folder, tmp_path / "store")
    tiny_model("llama", seed=1).save_pretrained(folder)
    new = activations(folder, tmp_path / "store")
    assert new != shards
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    assert activations(folder, tmp_path / "store") == new
    assert (folder / "model.safetensors.index.json").is_file()


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ("not JSON", "damaged"),
        ("[1]", "damaged"),
        ("{}", "damaged"),
        ('{"weight_map": []}', "damaged"),
        ('{"weight_map": {}}', "lists no shard"),
        ('{"weight_map": {"a": 3}}', "damaged"),
        ('{"weight_map": {"a": "../other/model.safetensors"}}', "outside"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "outside"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors is missing"),
    ],
)
def test_a_bad_index_is_one_line(tmp_path, index, problem):
    folder = sharded(tmp_path / "m")
    tiny_checkpoint(tmp_path / "other")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=problem) as error:
        load_model(folder)
    assert "\n" not in str(error.value)
