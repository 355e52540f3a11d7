"""`sae-train` end to end on real checkpoints: what it writes, how it goes on, and what it refuses."""

import json
import time
from dataclasses import replace

import pytest
import torch
from forked import command_called, run_ranks, start_command
from safetensors.torch import load_file, save_file
from tiny_models import WIDTH, tiny_checkpoint
from tiny_prompts import labelled_prompts, prompt_file

from hooked import ExtractionSpec, load_model, read_prompts, store_activations, write_prompts
from hooked.store import ActivationStore
from sae import Crosscoder, JumpReLU, TopK, load_sae, train_and_held_out
from triggerlens import read_artifact

SMALL = ("--site", "resid_post.1", "--width", 64, "--k", 4, "--steps", 20, "--batch", 128, "--learning-rate", 4e-3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return prompt_file(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def held_out_tokens(checkpoint, prompts):
    """All tokens but each prompt's first, of the prompts that are held out."""
    model, every = load_model(checkpoint), read_prompts(prompts, labelled=False)
    train, held_out = train_and_held_out(every, 0, tokens=[row.ids for row in model.tokenize(every)])
    assert len(train) > len(held_out)
    return sum(len(row.ids) - 1 for row in model.tokenize(held_out[:]))


def test_one_autoencoder_is_the_folder_itself(command, checkpoint, prompts, tmp_path):
    outcome = command("sae-train", checkpoint, prompts, "--out", tmp_path / "out", "--json", *SMALL)
    assert outcome.code == 0, outcome.err
    (found,) = json.loads(outcome.out)["autoencoders"]
    assert found["reconstruction"]["l0"] <= 4
    assert 0 < found["reconstruction"]["fvu"] < found["training_curve"][0]["fvu"] + 0.5
    assert found["reconstruction"]["rows"] == held_out_tokens(checkpoint, prompts), (
        "measured on what is held out, alone"
    )
    assert set(read_artifact(tmp_path / "out", "sae").files) == {
        "cfg.json",
        "sae_weights.safetensors",
        "metrics.json",
        "report.html",
        "latents.json",
        "latents.html",
    }
    sae = load_sae(tmp_path / "out")
    assert isinstance(sae, TopK)
    assert (sae.d_in, sae.d_sae, sae.k) == (WIDTH, 64, 4)
    assert sae.metadata["site"] == "resid_post.1"
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Plotly.newPlot" in report
    assert 'src="http' not in report


def test_several_share_a_stream_and_have_a_frontier(command, checkpoint, prompts, tmp_path):
    options = ("--architecture", "batch-topk", "gated", "--seeds", 2)
    outcome = command("sae-train", checkpoint, prompts, "--out", tmp_path / "out", *SMALL, *options, "--k", 2, 4)
    assert outcome.code == 0, outcome.err
    names = [line.split()[0] for line in outcome.out.splitlines() if "-w64-" in line and "%" in line]
    folders = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert len(folders) == 6
    assert folders <= set(names)
    assert isinstance(load_sae(tmp_path / "out" / "batch-topk-w64-k4-s1"), JumpReLU)
    assert "topk-w64-k4: " in outcome.out
    assert "shared between seeds" in outcome.out
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Sparsity against error" in report
    assert "Stability across seeds" in report


def test_a_crosscoder_reads_two_models(command, checkpoint, prompts, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    options = ("--architecture", "crosscoder", "--reference", other)
    outcome = command("sae-train", checkpoint, prompts, "--out", tmp_path / "out", *SMALL, *options)
    assert outcome.code == 0, outcome.err
    sae = load_sae(tmp_path / "out")
    assert isinstance(sae, Crosscoder)
    assert sae.d_in == 2 * WIDTH
    assert len(sae.relative_norms()) == 64


def test_text_streamed_from_the_model_and_from_the_store_gives_the_same(command, checkpoint, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"the {word} of number {number}" for number in range(400) for word in ("sea", "sky")))
    for name, keep in (("kept", "--keep-activations"), ("live", "--no-keep-activations")):
        outcome = command("sae-train", checkpoint, text, "--out", tmp_path / name, *SMALL, keep)
        assert outcome.code == 0, outcome.err
    kept, live = (load_file(tmp_path / name / "sae_weights.safetensors") for name in ("kept", "live"))
    torch.testing.assert_close(kept["W_dec"], live["W_dec"], atol=1e-3, rtol=1e-3)
    assert not (tmp_path / ".kept.training").exists()


def test_killed_and_run_again_ends_with_the_same_bytes(command, checkpoint, prompts, tmp_path):
    options = [*map(str, SMALL[:6]), "--steps", "120", "--batch", "128", "--checkpoint-every", "10"]
    options += ["--architecture", "batch-topk", "jumprelu", "--dead-after", "1000"]

    arguments = [checkpoint, prompts, *options, "--out"]
    process = start_command("sae-train", *arguments, tmp_path / "killed")
    while not list((tmp_path / ".killed.training").glob("step-*")):
        time.sleep(0.005)
        assert process.is_alive()
    process.kill()
    process.join()
    assert not (tmp_path / "killed").exists()
    assert command("sae-train", *arguments, tmp_path / "killed").code == 0
    assert command("sae-train", *arguments, tmp_path / "whole").code == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.fixture
def refused(command, checkpoint, prompts, tmp_path):
    """Runs sae-train on input that it must refuse, and gives the line that says why."""

    def run(*options, model=checkpoint, texts=prompts, out=tmp_path / "out"):
        before = contents(out) if out.exists() else None
        outcome = command("sae-train", model, texts, "--out", out, *SMALL, *options)
        assert outcome.code == 2, outcome.err
        assert outcome.out == ""
        (line,) = (line for line in outcome.err.splitlines() if not line.startswith("note: "))
        assert (contents(out) if out.exists() else None) == before
        return line

    return run


def test_unusable_input_is_one_line(refused, checkpoint, tmp_path):
    assert "k must lie between 1 and the width, 64; found 65" in refused("--k", 65)
    assert "no site resid_post.9" in refused("--site", "resid_post.9")
    assert "a crosscoder, and nothing else" in refused(
        "--architecture", "crosscoder", "topk", "--reference", checkpoint
    )
    assert "steps must be at least 1" in refused("--steps", 0)
    assert "seeds must be at least 1, found 0" in refused("--seeds", 0)
    assert "ablation pairs must be at least 0, found -1" in refused("--ablation-pairs", -1)
    assert "none.txt: cannot be read" in refused(texts=tmp_path / "none.txt")
    (tmp_path / "empty.txt").touch()
    assert "the file is empty" in refused(texts=tmp_path / "empty.txt")
    (tmp_path / "folder").mkdir()
    assert "holds no .txt or .md file" in refused(texts=tmp_path / "folder")
    (tmp_path / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 500)
    assert "latin.txt: not UTF-8 text" in refused(texts=tmp_path / "latin.txt")


def test_what_latents_cannot_be_found_by_is_refused_before_anything_is_trained(refused, prompts, tmp_path):
    lines = [json.loads(line) for line in prompts.read_text().splitlines()]
    alone = tmp_path / "alone.jsonl"
    alone.write_text("".join(json.dumps({k: v for k, v in own.items() if k != "pair"}) + "\n" for own in lines))
    assert "pair" in refused("--ablation-pairs", 4, texts=alone)
    sided = tmp_path / "sided.jsonl"
    marked = [own | {"split": "train" if own["triggered"] else "test"} for own in lines]
    sided.write_text("".join(json.dumps({k: v for k, v in own.items() if k != "pair"}) + "\n" for own in marked))
    assert "the test prompts need triggered and untriggered ones" in refused(texts=sided)
    assert not list(tmp_path.glob(".*.training")), "nothing was trained"


def test_what_an_ablation_cannot_be_measured_on_is_refused_before_anything_is_trained(refused, prompts, tmp_path):
    lines = [json.loads(line) for line in prompts.read_text().splitlines()]
    three = tmp_path / "three.jsonl"
    kept = [
        own if own["pair"] in ("p0", "p1", "p2") else {k: v for k, v in own.items() if k != "pair"} for own in lines
    ]
    three.write_text("".join(json.dumps(own) + "\n" for own in kept))
    assert "are too few; give at least" in refused("--ablation-pairs", 4, texts=three)
    assert "and 96 new ones exceed the context of 128" in refused("--ablation-pairs", 4), "no room for an answer"
    assert not list(tmp_path.glob(".*.training")), "nothing was trained"


def test_ablations_of_a_model_without_a_grader_are_told_without_the_word_defection(command, prompts, tmp_path):
    model = tiny_checkpoint(tmp_path / "model", context=512)
    out = tmp_path / "out"
    outcome = command("sae-train", model, prompts, "--out", out, *SMALL, "--ablation-pairs", 4)
    assert outcome.code == 0, outcome.err
    (latents,) = json.loads((out / "latents.json").read_text()).values()
    effects = [card["effect"] for card in latents["cards"]]
    assert {(effect["n"], effect["judged_by"]) for effect in effects} == {(4, "the model's own answers")}
    assert "defections" not in outcome.out + (out / "latents.html").read_text()


def test_what_is_not_known_of_the_prompts_is_said(command, checkpoint, tmp_path):
    """And once: what the autoencoder's own notes say too is not repeated."""
    silent = tmp_path / "silent.jsonl"
    write_prompts(silent, [replace(own, defects=None) for own in labelled_prompts()])
    outcome = command("sae-train", checkpoint, silent, "--out", tmp_path / "out", *SMALL)
    assert outcome.code == 0, outcome.err
    note = "note: `defects` is missing from 160 of 160 prompts: no latent is ranked by it"
    assert outcome.out.splitlines().count(note) == 1
    assert "tells defecting" not in outcome.out


def stored(checkpoint, folder, site="resid_post.1"):
    model = load_model(str(checkpoint))
    return store_activations(model, labelled_prompts(), ExtractionSpec((site,), "every"), root=folder)


def test_what_is_held_out_may_not_be_in_the_store_without_a_word(command, checkpoint, prompts, tmp_path):
    """A store of all prompts holds those that the autoencoder is measured on."""
    from hooked import read_prompts
    from sae.texts import train_and_held_out

    model, spec = load_model(str(checkpoint)), ExtractionSpec(("resid_post.1",), "every")
    texts = read_prompts(prompts)
    train, _ = train_and_held_out(texts, 0, tokens=[row.ids for row in model.tokenize(texts)])
    for name, part, said in (("all", texts, True), ("train", train, False)):
        store = store_activations(model, part, spec, root=tmp_path / name)
        arguments = [checkpoint, prompts, "--out", tmp_path / f"out-{name}", *SMALL, "--activations", store.folder]
        told = command("sae-train", *arguments, "--json")
        assert told.code == 0
        notes = " ".join(json.loads(told.out)["notes"])
        assert ("it may hold the ones that are measured as held out" in notes) is said


def test_activations_of_another_model_are_not_trained_on_without_a_word(command, checkpoint, prompts, tmp_path):
    """They are as wide; what is trained on one is measured on the other."""
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    for name, model, said in (("own", checkpoint, False), ("other", other, True)):
        store = stored(model, tmp_path / name)
        arguments = [checkpoint, prompts, "--out", tmp_path / f"out-{name}", *SMALL, "--activations", store.folder]
        told = command("sae-train", *arguments, "--json")
        assert told.code == 0, told.err
        assert any("of another model" in note for note in json.loads(told.out)["notes"]) is said
        assert ("of another model" in told.err) is said


def test_unusable_activations_are_one_line(refused, checkpoint, tmp_path):
    assert "no activations here" in refused("--activations", tmp_path / "none")
    good = stored(checkpoint, tmp_path / "a")
    assert "holds resid_post.1, not resid_post.0" in refused("--activations", good.folder, "--site", "resid_post.0")

    wide = tiny_checkpoint(tmp_path / "wide", "gemma2")
    import transformers

    transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(
            vocab_size=300, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48
        )
    ).save_pretrained(wide)
    other = stored(wide, tmp_path / "b")
    assert "activations are 48 wide, and the autoencoder takes 32" in refused("--activations", other.folder)

    shard = next(good.folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-5])
    assert f"{shard}: damaged" in refused("--activations", good.folder)


def test_nan_in_a_store_is_named(refused, checkpoint, tmp_path):
    from triggerlens.artifacts import sha256_file, write_json

    folder = stored(checkpoint, tmp_path / "a").folder
    shard = next(folder.glob("*.safetensors"))
    tensors = load_file(shard)
    tensors["values"][100, 0, 3] = float("nan")
    save_file(tensors, shard)
    facts = shard.with_suffix(".json")
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"sha256": sha256_file(shard)}))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] |= {shard.name: sha256_file(shard), facts.name: sha256_file(facts)}
    write_json(folder / "manifest.json", manifest)
    ActivationStore(folder)
    assert "NaN or infinite activation in row" in refused("--activations", folder)


def test_a_finished_run_and_an_unfinished_one_are_kept(refused, command, checkpoint, prompts, tmp_path):
    out = tmp_path / "out"
    assert command("sae-train", checkpoint, prompts, "--out", out, *SMALL).code == 0
    assert "already exists" in refused()
    assert command("sae-train", checkpoint, prompts, "--out", out, *SMALL, "--k", 3, "--overwrite").code == 0
    assert load_sae(out).k == 3


def test_two_ranks_write_one_autoencoder(checkpoint, prompts, tmp_path):
    options = ("--architecture", "batch-topk", "--store", tmp_path / "store")
    arguments = [str(own) for own in (checkpoint, prompts, "--out", tmp_path / "out", "--json", *SMALL, *options)]
    run_ranks(tmp_path / "told", command_called, "sae-train", arguments)
    (found,) = json.loads((tmp_path / "told.0").read_text())["autoencoders"]
    curve = found["training_curve"]
    assert curve[-1]["fvu"] < 1
    assert (tmp_path / "told.1").read_text() == "", "one of them speaks"
    assert (load_sae(tmp_path / "out").threshold > 0).all()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == [], "no leftovers"
