"""Whatever is wrong with the input, a command says it on one line, exits with 2, and loses nothing."""

import json
import shutil

import pytest
import torch
from calling import called
from safetensors.torch import load_file, save_file
from tiny_models import CONTEXT, tiny_checkpoint
from tiny_prompts import labelled_prompts, prompt_file

from hooked import write_prompts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A base model: its tokenizer has no chat template, which plain-text prompts would pass by (a note says so)."""
    return tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model", chat=False)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return prompt_file(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


@pytest.fixture
def refused(command, tmp_path):
    """Runs a command that must be refused, and gives the line that says why."""

    def run(name, *arguments, out=tmp_path / "out"):
        existed = out.exists()
        outcome = command(name, *arguments, "--out", out)
        assert outcome.code == 2, outcome.err
        assert outcome.out == ""
        lines = outcome.err.strip().splitlines()
        assert len(lines) == 1, outcome.err
        assert lines[0].startswith("error: ")
        assert out.exists() == existed
        return lines[0]

    return run


def lines_file(path, lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def records(**options):
    return [prompt.to_json() for prompt in labelled_prompts(**options)]


def test_no_such_model(refused, prompts):
    assert "nonexistent: no such model" in refused("probe-train", "nonexistent", prompts)


def test_prompts_must_be_given_for_a_model_of_one_s_own(refused, checkpoint):
    assert "prompts must be given" in refused("probe-train", checkpoint)


def test_no_such_prompt_file(refused, checkpoint, tmp_path):
    assert "none.jsonl: no such prompt file" in refused("probe-train", checkpoint, tmp_path / "none.jsonl")


def test_broken_json_line(refused, checkpoint, tmp_path):
    path = lines_file(tmp_path / "p.jsonl", [*records()[:3], '{"prompt": "x", \n', *records()[3:]])
    assert f"{path}:4: not valid JSON" in refused("probe-train", checkpoint, path)


def test_missing_field(refused, checkpoint, tmp_path):
    path = lines_file(tmp_path / "p.jsonl", [*records(), {"prompt": "x"}])
    assert f"{path}:{len(records()) + 1}: the field `triggered` is missing" in refused("probe-train", checkpoint, path)


def test_empty_file(refused, checkpoint, tmp_path):
    assert "holds no prompt" in refused("probe-train", checkpoint, lines_file(tmp_path / "p.jsonl", []))


def test_one_class_only(refused, checkpoint, tmp_path):
    path = lines_file(tmp_path / "p.jsonl", [record | {"defects": False} for record in records()])
    assert "class" in refused("probe-train", checkpoint, path)


def test_fewer_pairs_than_the_splits_need(refused, checkpoint, tmp_path):
    path = lines_file(tmp_path / "p.jsonl", records(pairs=2, harmless=0))
    assert "pair" in refused("probe-train", checkpoint, path)


def test_a_split_that_separates_a_pair(refused, checkpoint, tmp_path):
    split = [record | {"split": "test" if index % 3 else "train"} for index, record in enumerate(records())]
    line = refused("probe-train", checkpoint, lines_file(tmp_path / "p.jsonl", split))
    assert "pair" in line
    assert "p.jsonl:1" in line


def test_a_prompt_longer_than_the_context(refused, checkpoint, tmp_path):
    path = lines_file(
        tmp_path / "p.jsonl", [*records(), {"prompt": "long " * CONTEXT, "triggered": False, "defects": False}]
    )
    line = refused("probe-train", checkpoint, path)
    assert f"{path}:{len(records()) + 1}: the prompt has" in line
    assert f"context of {CONTEXT}" in line


def test_nan_activations_are_named_by_layer_and_prompt(refused, tmp_path):
    from transformers import AutoTokenizer

    folder = tiny_checkpoint(tmp_path / "model", chat=False)
    victim = AutoTokenizer.from_pretrained(folder)("~")["input_ids"][-1]
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][victim] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    path = lines_file(tmp_path / "p.jsonl", [*records(), {"prompt": "~", "triggered": False, "defects": False}])
    line = refused("probe-train", folder, path)
    assert f"{path}:{len(records()) + 1}: NaN or infinite activation at resid_post.0" in line


def test_weights_that_are_all_nan(refused, tmp_path, prompts):
    folder = tiny_checkpoint(tmp_path / "model", chat=False)
    weights = {
        name: torch.full_like(value, float("nan")) for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "NaN or infinite logits" in refused("probe-train", folder, prompts)


def test_output_folder_exists(refused, checkpoint, prompts, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    assert "already exists" in refused("probe-train", checkpoint, prompts, out=out)
    assert "was not written here" in refused("probe-train", checkpoint, prompts, "--overwrite", out=out)
    assert (out / "notes.txt").read_text() == "keep me"


def test_a_damaged_shard(command, refused, checkpoint, prompts, tmp_path):
    store = tmp_path / "store"
    assert command("probe-train", checkpoint, prompts, "--out", tmp_path / "first", "--store", store).code == 0
    shard = next(store.glob("*/shard-00000.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-7] ^= 255
    shard.write_bytes(content)
    line = refused("probe-train", checkpoint, prompts, "--store", store)
    assert f"{shard}: damaged" in line


@pytest.fixture(scope="module")
def probe(checkpoint, prompts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert called("probe-train", checkpoint, prompts, "--out", folder / "probe", "--store", folder / "store").code == 0
    return folder / "probe"


@pytest.fixture
def trained(probe, tmp_path):
    return shutil.copytree(probe, tmp_path / "probe")


@pytest.mark.parametrize("name", ["probe.safetensors", "probe.json"])
def test_a_damaged_probe(refused, checkpoint, prompts, trained, name):
    content = bytearray((trained / name).read_bytes())
    content[len(content) // 2] ^= 1
    (trained / name).write_bytes(content)
    assert f"{trained / name}: damaged" in refused("probe-score", checkpoint, prompts, "--probe", trained)


def test_no_probe_there(refused, checkpoint, prompts, tmp_path):
    assert "no probe here" in refused("probe-score", checkpoint, prompts, "--probe", tmp_path)


def test_a_probe_for_another_width(refused, prompts, trained, tmp_path):
    from tiny_models import VOCABULARY, tiny_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    wide = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48
    )
    LlamaForCausalLM(wide).save_pretrained(tmp_path / "wide")
    tiny_tokenizer(tmp_path / "wide", chat=False)
    line = refused("probe-score", tmp_path / "wide", prompts, "--probe", trained)
    assert "width 32" in line
    assert "width 48" in line


@pytest.mark.parametrize(
    ("site", "problem"),
    [("residual", "no site of kind 'residual'"), ("resid_post.7", "layers 0 to 2"), ("resid_post.x", "unknown site")],
)
def test_an_unknown_site_or_layer(refused, checkpoint, prompts, site, problem):
    assert problem in refused("probe-train", checkpoint, prompts, "--site", site)


def test_no_disk_space(refused, checkpoint, prompts, tmp_path):
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        line = refused("probe-train", checkpoint, prompts, "--store", tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "could not be written" in line
    assert "free space" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_no_cuda_where_asked(refused, checkpoint, prompts):
    assert "no CUDA" in refused("probe-train", checkpoint, prompts, "--device", "cuda")


def test_an_output_that_cannot_be_made(refused, checkpoint, prompts, tmp_path):
    (tmp_path / "file").write_text("")
    assert "could not be written" in refused("probe-train", checkpoint, prompts, out=tmp_path / "file" / "out")


def test_an_option_that_does_not_exist(command, checkpoint, prompts):
    outcome = command("probe-train", checkpoint, prompts, "--layer", "3")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err


def test_a_penalty_that_is_no_penalty(refused, checkpoint, prompts):
    assert "C -1.0: must be positive" in refused("probe-train", checkpoint, prompts, "--C", "-1")


def test_labels_are_not_needed_to_score(command, checkpoint, trained, tmp_path):
    write_prompts(tmp_path / "x.jsonl", labelled_prompts(4, harmless=0))
    stripped = [{"prompt": json.loads(line)["prompt"]} for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    path = lines_file(tmp_path / "new.jsonl", stripped)
    outcome = command("probe-score", checkpoint, path, "--probe", trained, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["n_prompts"] == 8
    shutil.rmtree(trained)
