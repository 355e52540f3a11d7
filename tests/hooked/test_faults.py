"""Whatever folder is given for a model, a fault in it is one line that names it."""

import json
from importlib.util import find_spec

import pytest
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import tiny_checkpoint, tiny_tokenizer

from hooked import load_model
from triggerlens import UserError

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
T5 = {"vocab_size": 300, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
BART = {
    "vocab_size": 300,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
CODE = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.Tokenizer", None]}


def configured(**changes):
    def change(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))

    return change


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def renamed(name):
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def without_tokenizer(folder):
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_nan(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pipeline(folder):
    (folder / "config.json").unlink()
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')


def one_level_down(folder):
    (folder / "inner").mkdir()
    (folder / "config.json").rename(folder / "inner" / "config.json")


def emptied(folder):
    for path in folder.iterdir():
        path.unlink()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
DAMAGED = {
    "empty": (emptied, "no config.json in this folder"),
    "no JSON": (written("config.json", b"{"), r"config.json: damaged: not JSON"),
    "no object": (written("config.json", b"[]"), r"config.json: damaged: not a JSON object"),
    "no text": (written("config.json", b"\xff\xfe"), r"config.json: damaged: not JSON"),
    "no type": (configured(model_type=None), "says no `model_type`"),
    "unknown type": (configured(model_type="foo_2027"), "does not know the model type 'foo_2027'; a newer one may"),
    "code": (configured(model_type="foo_2027", auto_map=CODE), "wants to run code of its own .* never done here"),
    "cut": (cut, r"model.safetensors: damaged: \d+ bytes of \d+; copy it again"),
    "no bytes": (written("model.safetensors", b""), "damaged: 0 bytes"),
    "no header": (written("model.safetensors", b"\x02" + b"\0" * 7 + b"{]"), "its header cannot be read"),
    "pointer": (written("model.safetensors", POINTER), "is a pointer of Git LFS"),
    "no tokenizer": (without_tokenizer, "has no tokenizer"),
    "bad tokenizer": (written("tokenizer.json", b"{}"), "its tokenizer could not be loaded: KeyError"),
    "a weight missing": (without_a_weight, "model.layers.1.mlp.up_proj.weight is missing"),
    "another shape": (configured(intermediate_size=40), r"has the shape \(32, 48\), but config.json wants \(32, 40\)"),
    "another vocabulary": (configured(vocab_size=200), r"has the shape \(300, 32\), but config.json wants \(200, 32\)"),
    "more layers": (configured(num_hidden_layers=5), "is missing"),
    "no number": (with_nan, "NaN or infinite logits"),
    "other form": (renamed("consolidated.safetensors"), "there is consolidated.safetensors"),
    "pickled": (renamed("pytorch_model.bin"), "its weights are pickled"),
    "pipeline": (pipeline, "is a diffusion pipeline"),
    "one level down": (one_level_down, "one lies in .*inner"),
    "no such function": (configured(hidden_act="nonsense"), "could not be loaded .* KeyError 'nonsense'"),
    "end tokens": (written("generation_config.json", b"{"), "generation_config.json: damaged: not JSON"),
    "tuples": (configured(return_dict=False), "says `return_dict: false`"),
    "heads": (configured(num_attention_heads=5), "not a multiple of the number of attention heads"),
}
QUANTISED = {
    "bitsandbytes": ({"load_in_4bit": True}, "bitsandbytes"),
    "gptq": ({"bits": 4, "group_size": 128}, "optimum|gptqmodel"),
    "awq": ({"bits": 4, "group_size": 128}, "gptqmodel|autoawq"),
    "hqq": ({"quant_config": {}}, "hqq|HQQ"),
    "torchao": ({"quant_type": "int4_weight_only"}, "torchao"),
    "quanto": ({"weights": "int8"}, "optimum-quanto"),
    "aqlm": ({}, "aqlm"),
}
KINDS = {
    "BertModel": ("BertConfig", "AutoModel", SIZES, "an encoder, which reads both ways"),
    "BertForMaskedLM": ("BertConfig", "AutoModelForMaskedLM", SIZES, "an encoder, which reads both ways"),
    "T5": ("T5Config", "AutoModelForSeq2SeqLM", T5, "an encoder with a decoder"),
    "Bart": ("BartConfig", "AutoModelForSeq2SeqLM", BART, "an encoder with a decoder"),
    "Llama": ("LlamaConfig", "AutoModelForSequenceClassification", SIZES, "a classifier"),
    "ViT": ("ViTConfig", "AutoModel", SIZES | {"image_size": 8, "patch_size": 4}, "no causal language model"),
}


def refused(folder, problem):
    with pytest.raises(UserError, match=problem) as error:
        load_model(folder, device="cpu")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_folder(fault, tmp_path):
    change, problem = DAMAGED[fault]
    folder = tiny_checkpoint(tmp_path / "m")
    change(folder)
    refused(folder, problem)


@pytest.mark.parametrize("method", QUANTISED)
def test_a_quantised_checkpoint_without_its_library(method, tmp_path):
    options, library = QUANTISED[method]
    folder = tiny_checkpoint(tmp_path / "m")
    configured(quantization_config={"quant_method": method} | options)(folder)
    if find_spec(method):
        pytest.skip(f"{method} is here")
    refused(folder, f"is quantised with {method}, and could not be loaded: .*({library})")


@pytest.mark.parametrize("settings", [{}, {"bits": 4}, "gptq"])
def test_a_quantisation_that_does_not_say_its_method(settings, tmp_path):
    folder = tiny_checkpoint(tmp_path / "m")
    configured(quantization_config=settings)(folder)
    refused(folder, "names no `quant_method`")


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_model(kind, tmp_path):
    config, loader, options, problem = KINDS[kind]
    settings = getattr(transformers, config)(pad_token_id=0, **options)
    getattr(transformers, loader).from_config(settings).save_pretrained(tmp_path / "m")
    tiny_tokenizer(tmp_path / "m")
    refused(tmp_path / "m", problem)


def test_a_model_of_several_kinds_of_input(tmp_path):
    folder = tiny_checkpoint(tmp_path / "m")
    configured(model_type="llava", text_config={"model_type": "llama"}, vision_config={})(folder)
    refused(folder, "a model of several kinds of input")


def test_a_model_that_transformers_knows_is_loaded_without_the_code_beside_it(tmp_path):
    folder = tiny_checkpoint(tmp_path / "m")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    configured(auto_map=CODE)(folder)
    assert load_model(folder, device="cpu").info.n_layers == 3
    assert not (tmp_path / "ran").exists()


def test_a_folder_may_be_named_like_a_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "someone" / "something")
    assert load_model("someone/something", device="cpu").info.n_layers == 3
    (tmp_path / "someone" / "empty").mkdir()
    refused("someone/empty", "no config.json in this folder")


def test_shards_may_be_links_as_in_the_cache_of_the_hub(tmp_path):
    from tiny_models import tiny_model

    folder = tmp_path / "snapshot"
    tiny_model("llama").save_pretrained(folder, max_shard_size="20KB")
    tiny_tokenizer(folder)
    (tmp_path / "blobs").mkdir()
    for shard in folder.glob("model-*.safetensors"):
        shard.rename(tmp_path / "blobs" / shard.name)
        shard.symlink_to(tmp_path / "blobs" / shard.name)
    assert load_model(folder, device="cpu").info.n_layers == 3
