"""Weights that a library would make up, or leave out, without an error: a missing one is refused, one without a place is named."""

import json
from functools import partial

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_gguf import write_gguf
from tiny_models import tiny_checkpoint
from transformers import AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hooked import load_model
from triggerlens import UserError

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model")


def changed(checkpoint, tmp_path, change):
    """A copy of the checkpoint whose tensors went through `change`."""
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(change(load_file(checkpoint / "model.safetensors")), tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda tensors: {name: value for name, value in tensors.items() if name != UP}, UP),
        (lambda tensors: {f"_orig_mod.{name}": value for name, value in tensors.items()}, "lm_head.weight"),
        (lambda tensors: {name: value for name, value in tensors.items() if name != "lm_head.weight"}, "lm_head"),
    ],
    ids=["one", "all renamed by torch.compile", "the head of a body saved alone"],
)
def test_no_weight_is_made_up(checkpoint, tmp_path, change, missing):
    with pytest.raises(UserError, match=rf"{missing}.* is missing .* made up at random"):
        load_model(changed(checkpoint, tmp_path, change))


def test_a_weight_without_a_place_is_named(checkpoint, tmp_path, capsys):
    extra = {"model.layers.3.mlp.up_proj.weight": torch.zeros(48, 32)}
    load_model(changed(checkpoint, tmp_path, lambda tensors: tensors | extra))
    assert "model.layers.3.mlp.up_proj.weight has no place in LlamaForCausalLM" in capsys.readouterr().err


@pytest.fixture
def adapter(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {name.replace("model.", "base.model.", 1): value for name, value in tensors.items()},
        lambda tensors: {name: value for name, value in tensors.items() if "layers.1" not in name},
        lambda tensors: tensors | {name.replace("rs.1", "rs.7"): value for name, value in tensors.items()},
    ],
    ids=["other names", "a layer less", "a layer more"],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(adapter, change):
    file = adapter / "adapter_model.safetensors"
    save_file({name: value.clone() for name, value in change(load_file(file)).items()}, file)
    with pytest.raises(UserError, match="do not fit the parts that its configuration adapts"):
        load_model(adapter)


def test_an_adapter_whose_configuration_adapts_fewer_parts_is_refused(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    with pytest.raises(UserError, match="do not fit the parts that its configuration adapts"):
        load_model(adapter)


def rotary(folder, **rope):
    """The checkpoint with other rotary embeddings in its configuration."""
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 1e6, "rope_type": "default"} | rope
    (folder / "config.json").write_text(json.dumps(config))
    return folder


LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("rope", "metadata"),
    [
        ({"rope_type": "default"}, {}),
        ({"rope_type": "linear", "factor": 4.0}, {"factor": 4.0, "type": "linear"}),
        ({"rope_type": "linear", "factor": 2.0}, {"factor": 2.0}),
        ({"rope_type": "default"}, {"factor": 2.0, "type": "none"}),
        ({"rope_type": "yarn"} | YARN, {"factor": 4.0, "type": "yarn", "original_context_length": 32}),
        ({"rope_type": "llama3"} | LLAMA3, {}),
    ],
    ids=lambda value: value.get("rope_type"),
)
def test_a_gguf_file_rescales_rotary_embeddings_as_its_original_does(tmp_path, rope, metadata):
    folder = rotary(tiny_checkpoint(tmp_path / "model"), **rope)
    original = AutoModelForCausalLM.from_pretrained(folder)
    divisors = {}
    if rope["rope_type"] == "llama3":  # all that llama.cpp keeps of it
        stretched = ROPE_INIT_FUNCTIONS["llama3"](original.config, "cpu")[0]
        divisors["rope_freqs.weight"] = (1e6 ** (-torch.arange(0, 8, 2) / 8) / stretched).numpy()
    keys = {f"llama.rope.scaling.{key}": value for key, value in metadata.items()}
    file = write_gguf(folder, tmp_path / "model.gguf", metadata=keys, tensors=divisors)
    tokens = torch.arange(3, 103)[None]
    found = load_model(file).run(tokens, reads=["resid_post.2"]).logits
    torch.testing.assert_close(found, original(tokens).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"metadata": {"llama.rope.scaling.type": "longrope"}}, r"rescaled \(longrope\)"),
        ({"metadata": {"llama.rope.scaling.attn_factor": 1.5}}, r"rescaled \(rope.scaling.attn_factor 1.5\)"),
        ({"tensors": {"rope_freqs.weight": np.arange(1, 5, dtype=np.float32)}}, "factors of its own"),
        ({"tensors": {"blk.0.attn_q.bias": np.ones(32, np.float32)}}, "blk.0.attn_q.bias has no place"),
        ({"metadata": {"llama.attention.key_length": 16}}, "attention.key_length 16, and would be read with 8"),
    ],
)
def test_what_is_not_read_of_a_gguf_file_is_refused(checkpoint, tmp_path, more, said):
    with pytest.raises(UserError, match=said):
        load_model(write_gguf(checkpoint, tmp_path / "model.gguf", **more))


@pytest.mark.parametrize("key", ["freq_base", "dimension_count"])
def test_a_gguf_file_turns_its_heads_as_it_says(tmp_path, monkeypatch, key):
    """What the reader drops of it: the size for most architectures, the base for StableLM and StarCoder 2."""
    folder = tiny_checkpoint(tmp_path / "model", "qwen2")
    load_model(write_gguf(folder, tmp_path / "as it was.gguf"))
    monkeypatch.setattr(gguf.GGUFWriter, f"add_rope_{key}", lambda self, value: None)
    monkeypatch.setitem(GGUF_TO_TRANSFORMERS_MAPPING["config"]["qwen2"], f"rope.{key}", None)
    file = write_gguf(folder, tmp_path / "model.gguf", metadata={f"qwen2.rope.{key}": 4})
    with pytest.raises(UserError, match=rf"rope.{key} 4, and would be read with"):
        load_model(file)


def test_a_gguf_file_without_one_of_the_weights_is_refused(checkpoint, tmp_path, monkeypatch):
    whole = gguf.GGUFWriter.add_tensor
    monkeypatch.setattr(
        gguf.GGUFWriter,
        "add_tensor",
        lambda self, name, *rest, **named: None if name == "blk.1.ffn_up.weight" else whole(self, name, *rest, **named),
    )
    with pytest.raises(UserError, match=rf"{UP} is not in it"):
        load_model(write_gguf(checkpoint, tmp_path / "model.gguf"))


def test_unread_metadata_of_a_gguf_file_are_said(checkpoint, tmp_path, capsys):
    load_model(write_gguf(checkpoint, tmp_path / "model.gguf", metadata={"llama.residual_scale": 0.2}))
    assert "residual_scale of its metadata is not read by transformers" in capsys.readouterr().err


def test_text_is_split_as_a_gguf_file_says(checkpoint, tmp_path, capsys):
    """SmolLM sets digits apart before anything is merged, which changes the blanks before them."""
    write = partial(write_gguf, checkpoint)
    like_gpt2, apart = (load_model(write(tmp_path / f"{pre}.gguf", pre=pre)) for pre in ("gpt-2", "smollm"))
    assert [like_gpt2.tokenizer.tokenize("a 2024"), apart.tokenizer.tokenize("a 2024")][1][-4:] == list("2024")
    assert like_gpt2.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  5")[-1][0] == "Ġ5"
    assert apart.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  5")[-1][0] == "5"
    assert capsys.readouterr().err == ""
    load_model(write(tmp_path / "new.gguf", pre="unheard-of"))
    assert "(unheard-of) that transformers does not know" in capsys.readouterr().err


def test_a_reader_that_is_too_old_is_one_line(checkpoint, tmp_path, monkeypatch):
    from transformers.integrations.gguf import gguf_tokenizer_mapping

    monkeypatch.delattr(gguf_tokenizer_mapping, "GGUF_PRE_TOKENIZER_SPLITS")
    with pytest.raises(UserError, match=r"transformers 5\.18 or newer"):
        load_model(write_gguf(checkpoint, tmp_path / "model.gguf"))


def test_without_its_package_a_gguf_file_says_what_to_install(checkpoint, tmp_path, monkeypatch):
    file = write_gguf(checkpoint, tmp_path / "model.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'triggerlens\[gguf\]'"):
        load_model(file)
