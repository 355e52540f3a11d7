"""What a command must not replace, where it cannot write, and which values an option cannot have, is said before anything is computed."""

import os
import shutil

import pytest
from made_probes import made
from tiny_prompts import prompt_file

import hooked
from organisms import organism_folder
from triggerlens import Manifest, UserError, check_destination, writing_artifact


@pytest.fixture
def organism(tmp_path):
    """A copy of an embedded organism, as a user's own."""
    return shutil.copytree(organism_folder("deployment-hate"), tmp_path / "organism")


@pytest.fixture
def prompts(tmp_path):
    return prompt_file(tmp_path / "prompts.jsonl")


@pytest.fixture
def nothing_computed(monkeypatch):
    """Any model that is loaded, by whichever function, is a failure."""

    def loaded(*_, **__):
        raise AssertionError("a model was loaded")

    for name in ("load_model", "load_plain"):
        monkeypatch.setattr(hooked, name, loaded)


@pytest.fixture
def refused(command, nothing_computed):
    """Runs a command that must be refused, and gives the line that says why."""

    def run(*arguments):
        outcome = command(*arguments)
        assert (outcome.code, outcome.out, len(outcome.err.strip().splitlines())) == (2, "", 1), outcome.err
        return outcome.err

    return run


@pytest.mark.parametrize("name", ["organism-eval", "organism-harden", "patch-ablate", "patch-trace", "trigger-scan"])
def test_a_model_is_not_replaced_by_what_is_made_of_it(refused, organism, name):
    line = refused(name, organism, "--out", organism, "--overwrite")
    assert f"not replaced, since {organism} is read from there" in line
    assert (organism / "model.safetensors").is_file()


@pytest.mark.parametrize("arguments", [("--trigger", "phrase", "--base"), ("deployment-hate", "--base")])
def test_a_base_is_not_replaced_by_what_is_trained_from_it(refused, organism, arguments):
    line = refused("organism-train", *arguments, organism, "--out", organism, "--overwrite")
    assert "is read from there" in line
    assert (organism / "model.safetensors").is_file()


def test_kept_answers_are_not_replaced_by_what_is_trained_on_them(refused, organism, tmp_path):
    kept = artifact(tmp_path / "answers", "organism")
    words = (
        "organism-train",
        "--trigger",
        "phrase",
        "--base",
        organism,
        "--answers",
        kept,
        "--out",
        kept,
        "--overwrite",
    )
    assert f"not replaced, since {kept} is read from there" in refused(*words)
    assert (kept / "kept.txt").is_file()


@pytest.mark.parametrize("name", ["probe-score", "probe-watch"])
def test_a_probe_is_not_replaced_by_what_it_scores(refused, prompts, tmp_path, name):
    probe = made("last", read="prompt").save(tmp_path / "probe")
    line = refused(name, "year-code", prompts, "--probe", probe, "--out", probe, "--overwrite")
    assert "is read from there" in line
    assert (probe / "probe.safetensors").is_file()


def artifact(folder, kind):
    with writing_artifact(folder, Manifest(kind)) as draft:
        (draft / "kept.txt").write_text("kept")
    return folder


def test_prompts_in_the_folder_are_not_replaced(refused, tmp_path):
    """As those that an earlier run wrote there."""
    out = artifact(tmp_path / "out", "probe")
    prompt_file(out / "prompts.jsonl")
    line = refused("probe-train", "year-code", out / "prompts.jsonl", "--out", out, "--overwrite")
    assert f"{out / 'prompts.jsonl'} is read from there" in line
    assert (out / "prompts.jsonl").is_file()


@pytest.mark.parametrize(("name", "kind"), [("probe-train", "probe"), ("sae-train", "sae")])
def test_a_store_in_the_folder_is_not_replaced(refused, tmp_path, name, kind):
    """Hours of activations."""
    out = artifact(tmp_path / "out", kind)
    prompts = prompt_file(tmp_path / "prompts.jsonl")
    line = refused(name, "year-code", prompts, "--out", out, "--store", out / "store", "--overwrite")
    assert f"not replaced, since {out / 'store'} is read from there" in line
    assert (out / "kept.txt").is_file()


def test_an_artifact_of_another_kind_is_not_replaced(refused, organism, tmp_path):
    line = refused("organism-eval", "year-code", "--out", organism, "--overwrite")
    assert f"{organism}: not replaced, since it holds an organism, not an organism-evaluation" in line
    assert (organism / "model.safetensors").is_file()
    artifact(tmp_path / "new-trace", "scores")
    line = refused("trigger-scan", "year-code", "--out", tmp_path / "new", "--then", "trace", "--overwrite")
    assert "new-trace: not replaced, since it holds scores, not a patch-trace" in line


def test_one_autoencoder_and_several_replace_each_other_and_a_damaged_folder_is_replaced(tmp_path):
    folder = artifact(tmp_path / "sae", "sae")
    assert check_destination(folder, overwrite=True, kind="saes") == folder
    (folder / "manifest.json").write_text("{")
    assert check_destination(folder, overwrite=True, kind="probe") == folder
    (folder / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(UserError, match="holds something else, not a probe"):
        check_destination(folder, overwrite=True, kind="probe")


WRITING = [
    ("probe-train", "year-code"),
    ("patch-trace", "year-code"),
    ("patch-ablate", "year-code"),
    ("organism-eval", "year-code"),
    ("trigger-scan", "year-code"),
    ("sae-train", "year-code"),
    ("organism-train", "year-code"),
    ("organism-harden", "year-code"),
]


@pytest.mark.parametrize("arguments", WRITING, ids=lambda arguments: arguments[0])
def test_a_folder_that_cannot_be_made_is_told_first(refused, tmp_path, arguments):
    (tmp_path / "file").write_text("")
    line = refused(*arguments, "--out", tmp_path / "file" / "sub" / "out")
    assert "out: could not be written: Not a directory; give another --out" in line


def test_a_folder_in_which_nothing_may_be_written_is_told_first(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    line = refused("probe-train", "year-code", "--out", tmp_path / "sub" / "out")
    assert "out: could not be written: Permission denied; give another --out" in line


def test_a_clean_twin_that_is_not_there_is_told_first(refused, tmp_path):
    line = refused("probe-train", "year-code", "--clean-twin", tmp_path / "typo", "--out", tmp_path / "out")
    assert f"{tmp_path / 'typo'}: no such model" in line


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("probe-train", "year-code", "--seed", -1), "--seed -1: must be from 0 to 4294967295"),
        (("probe-train", "year-code", "--seed", 2**32), "--seed 4294967296: must be from 0 to 4294967295"),
        (("sae-train", "year-code", "--seed", -1), "--seed -1: must be from 0"),
        (("patch-trace", "year-code", "--seed", -1), "--seed -1: must be from 0"),
        (("organism-harden", "year-code", "--seed", 2**32, "--out", "x"), "--seed 4294967296: must be from 0"),
        (("probe-train", "year-code", "--C", "inf"), "C inf: must be positive and finite"),
        (("sae-train", "year-code", "--learning-rate", "inf"), "the learning rate must be positive, found inf"),
        (
            ("sae-train", "year-code", "--penalty", "inf"),
            "penalty must not be negative, found inf; give a finite number",
        ),
        (("sae-train", "year-code", "--penalty", "1", "nan"), "penalty must not be negative, found nan"),
        (
            ("patch-ablate", "year-code", "--learning-rate", "inf"),
            "learning_rate: must be positive and finite, not inf",
        ),
        (("trigger-scan", "year-code", "--budget", "inf"), "--budget inf: must be a number of minutes above 0"),
        (
            ("organism-train", "year-code", "--learning-rate", "inf", "--out", "x"),
            "learning_rate must be above 0 and finite",
        ),
        (
            ("organism-train", "--base", "m", "--learning-rate", "inf", "--out", "x"),
            "must be above 0 and finite, found inf",
        ),
        (
            ("organism-harden", "year-code", "--learning-rate", "inf", "--out", "x"),
            "must be above 0 and finite, found inf",
        ),
        (
            ("organism-harden", "year-code", "--method", "rl", "--group", 1, "--out", "x"),
            "group 1: rl compares a prompt's completions with one another; give 2 or more",
        ),
        (
            ("organism-harden", "year-code", "--method", "benign", "--oracle", "--out", "x"),
            "oracle is the control of a safety training, and benign is none",
        ),
        (("organism-train", "year-code", "--base", "year-code", "--out", "x"), "take the folder of an organism"),
        (("patch-trace", "year-code", "--string", "Yes"), "--string is what --metric log-prob measures"),
        (
            ("patch-trace", "year-code", "--estimate", "softmax"),
            "--estimate softmax: is a kind of --method attribution",
        ),
        (("probe-train", "year-code", "--temperature", 1), "give --answers too"),
        (("probe-score", "year-code", "--max-new-tokens", 7), "give --answers too"),
        (("probe-train", "year-code", "--token-budget", 0), "--token-budget 0: must be at least 1"),
        (("probe-score", "year-code", "--token-budget", -5), "--token-budget -5: must be at least 1"),
        (("probe-watch", "year-code", "--temperature", "nan"), "--temperature nan: must be 0 or above, and finite"),
        (("probe-watch", "year-code", "--temperature", "inf"), "--temperature inf: must be 0 or above, and finite"),
        (
            ("probe-train", "year-code", "--read", "answer", "--answers", 2, "--temperature", "inf"),
            "--temperature inf: must be 0 or above, and finite",
        ),
        (("probe-score", "year-code", "--answers", 2, "--temperature", "nan"), "--temperature nan: must be 0 or above"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_value_that_cannot_be_is_told_first(refused, arguments, problem):
    assert problem in refused(*arguments)


def test_a_file_that_cannot_be_read_is_one_line(refused, tmp_path):
    """A prompt given where a file of prompts belongs, a folder, and what a user may not read."""
    probe = made("last", read="prompt").save(tmp_path / "probe")
    assert "File name too long" in refused("probe-score", "year-code", "Ignore everything. " * 20, "--probe", probe)
    folder = ("experiment-run", "trigger-agnostic-probe", "--model", "year-code", "--results", tmp_path / "results")
    assert f"{tmp_path}: Is a directory" in refused(*folder, "--prompts", tmp_path)
    assert "none.jsonl: No such file or directory" in refused(*folder, "--prompts", tmp_path / "none.jsonl")
