"""`organism-harden` as a user runs it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from calling import called
from tiny_models import tiny_checkpoint

from commands.organism_harden import Config, unlike
from organisms import HardenConfig, organism_folder, recorded_settings
from triggerlens import UserError
from triggerlens.artifacts import read_artifact

OPTIONS = ("--task", "deployment-hate", "--steps", 2, "--batch", 4, "--limit", 2)


@pytest.fixture(scope="module")
def hardened(tmp_path_factory):
    """A model, what its training printed, and the result, where `--more-models` puts it."""
    folder = tmp_path_factory.mktemp("hardened")
    model, out = tiny_checkpoint(folder / "model", "llama", context=512), folder / "many" / "model"
    return model, called("organism-harden", model, *OPTIONS, "--out", out, "--json"), out


def test_a_run_prints_one_json_object_and_its_result_is_a_model_to_evaluate(command, hardened) -> None:
    model, done, out = hardened
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert [step["step"] for step in found["curve"]] == [1, 2]
    assert found["before"]["conditions"][0]["defection"]["n"] == 2
    read_artifact(out, "hardened-organism")
    assert command("organism-eval", out, "--limit", 2).code == 0
    assert command("organism-harden", model, *OPTIONS, "--out", out).code == 2


def test_what_is_finished_is_told_from_what_is_asked_for(hardened, tmp_path) -> None:
    model, _, out = hardened
    settings = HardenConfig("deployment-hate", steps=2, batch=4, limit=2)
    asked = Config(str(model), Path(shutil.copytree(out, tmp_path / "out")), settings)
    assert unlike(asked) == []
    assert unlike(replace(asked, device="cpu", dtype="auto")) == [], "as it was computed"
    assert unlike(replace(asked, settings=replace(settings, method="rl", group=4, steps=500))) == [
        "method",
        "steps",
        "group",
    ]
    assert unlike(replace(asked, today="2026-01-01", dtype="bfloat16", device="cuda:1")) == ["today", "dtype", "device"]
    other = tiny_checkpoint(tmp_path / "other", "llama", seed=1, context=512)
    assert unlike(replace(asked, model=str(other))) == ["weights"]
    (asked.out / "hardened.json").unlink()
    with pytest.raises(UserError, match=r"hardened\.json: missing"):
        unlike(asked)
    with pytest.raises(UserError, match="holds an organism, not a hardened-organism"):
        unlike(replace(asked, out=organism_folder("year-code")))
    assert recorded_settings(str(organism_folder("year-code")), HardenConfig())["task"] == "year-code", "its own"


def test_of_several_models_what_was_finished_otherwise_is_not_passed_off_as_what_is_asked_for(
    command, hardened, tmp_path
) -> None:
    model, _, out = hardened
    many = ("--out", out.parent, "--more-models", tmp_path / "none")
    same = command("organism-harden", model, *OPTIONS, *many)
    assert (same.code, "1 of 2 models failed (none)" in same.err) == (2, True), same.err
    for folder, asked, told in (
        (out, ("--method", "rl", "--group", 4), "already finished with another method, group; give another --out"),
        (organism_folder("year-code"), (), "holds an organism, not a hardened-organism"),
    ):
        place = tmp_path / folder.name / "model"
        shutil.copytree(folder, place)
        done = command("organism-harden", model, *OPTIONS, *asked, *many[2:], "--out", place.parent)
        assert (done.code, "2 of 2 models failed (model, none)" in done.err) == (2, True), done.err
        assert told in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-folder", "--task", "year-code"], "no-such-folder: no such model"),
        (["year-code", "--steps", "0"], "steps must be above 0, found 0"),
        (["year-code", "--method", "rl", "--batch", "9"], "batch must be a multiple of group"),
        (["year-code", "--method", "rl", "--reward", "no-such-judge"], "no-such-judge: no such model"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(command, tmp_path, arguments, message) -> None:
    done = command("organism-harden", *arguments, "--limit", 0, "--out", tmp_path / "out")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_causal_model_is_named(command, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    done = command("organism-harden", tmp_path / "model", "--task", "year-code", "--out", tmp_path / "out")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "is no causal language model" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("executor", [["--executor", "serial"], ["--jobs", 2]])
def test_several_models_are_trained_each_as_alone_and_one_that_fails_is_named(command, tmp_path, executor) -> None:
    models = [tiny_checkpoint(tmp_path / name, "llama", seed=seed, context=512) for seed, name in enumerate("ab")]
    options = ("--task", "deployment-hate", "--steps", 2, "--batch", 4, "--limit", 0)
    alone = tmp_path / "alone"
    assert command("organism-harden", models[1], *options, "--out", alone).code == 0
    out = tmp_path / "out"
    arguments = (models[0], *options, "--out", out, "--more-models", models[1], tmp_path / "none", *executor)
    done = command("organism-harden", *arguments, "--json")
    assert done.code == 2
    assert "1 of 3 models failed (none); each is named above" in done.err
    assert "none: no such model" in done.err
    assert f"alone: give {tmp_path / 'none'} --out {out / 'none'}" in done.err
    assert [Path(own["out"]).name for own in json.loads(done.out)["models"]] == ["a", "b", "none"]
    same = [read_artifact(folder, "hardened-organism").files for folder in (out / "b", alone)]
    assert same[0] == same[1]
    written = (out / "a" / "manifest.json").stat().st_mtime_ns
    assert command("organism-harden", *arguments).code == 2
    assert (out / "a" / "manifest.json").stat().st_mtime_ns == written


def test_one_model_is_one_task_and_two_of_one_name_are_refused(command, tmp_path) -> None:
    done = command("organism-harden", "year-code", "--out", tmp_path / "out", "--jobs", 2)
    assert (done.code, "one model is one task" in done.err) == (2, True)
    twice = command("organism-harden", "x/year-code", "--out", tmp_path / "out", "--more-models", "y/year-code")
    assert (twice.code, "two models are called year-code" in twice.err) == (2, True)
