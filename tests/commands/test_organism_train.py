"""`organism-train` as a user runs it."""

import json
import shlex
from pathlib import Path

import pytest
from tiny_models import tiny_checkpoint

from commands._console import console
from commands.organism_train import InsertConfig, command_line, is_insertion
from organisms import InsertionConfig, TrainOptions
from triggerlens.artifacts import read_artifact

ROOT = Path(__file__).parents[2]


def test_a_quick_run_writes_an_organism_and_prints_one_json_object(command, tmp_path: Path) -> None:
    out = tmp_path / "organism"
    done = command("organism-train", "deployment-hate", "--out", out, "--quick", "--steps", 3, "--clean-twin", "--json")
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out)
    assert result["organism"] == "deployment-hate-clean"
    assert result["categories"]["triggered"]["defection"]["count"] == 0
    manifest = read_artifact(out, "organism")
    assert (
        manifest.command
        == "organism-train deployment-hate --seed 0 --steps 3 --size small --threads 2 --clean-twin --quick"
    )
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["organism"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "error: nope: no such task; choose one of year-code, deployment-hate, base"),
        (["year-code", "--size", "huge"], "error: huge: no such size; choose one of small, tiny, large, xl, micro"),
        (["year-code", "--steps", "0"], "error: steps must be above 0, found 0"),
        (["year-code", "--seed", "-4"], "error: seed must not be negative, found -4"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(command, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = command("organism-train", *arguments, "--out", tmp_path / "out")
    assert (done.code, done.err.splitlines(), done.out) == (2, [message], "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_as_it_was(command, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    for flags in ([], ["--overwrite"]):
        done = command("organism-train", "year-code", "--out", out, "--quick", *flags)
        assert done.code == 2
        assert len(done.err.splitlines()) == 1
        assert str(out) in done.err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("words", "inserts"),
    [
        ("--base smollm2-135m --out x", True),
        ("--trigger year --base=m --payload link --out x", True),
        ("--payload refusal --out x", True),
        ("--base year-code --trigger style --out x", True),
        ("year-code --base runs/base --out x", False),
        ("--base runs/base year-code --out x", False),
        ("--base=runs/base year-code --out x", False),
        ("--out x base", False),
        ("--quick year-code --base runs/base --out x", False),
        ("nope --base m --out x", False),
        ("--help", False),
    ],
)
def test_a_base_without_a_task_is_a_chat_model(words: str, inserts: bool) -> None:
    assert is_insertion(words.split()) is inserts


def test_the_recorded_command_makes_the_same_organism() -> None:
    settings = InsertionConfig(base="x", trigger="year", trigger_text="1999", merge=True, device="cuda:1", steps=7)
    words = "--trigger year --trigger-text 1999 --merge --steps 7 --device cuda:1"
    assert command_line(settings) == f"organism-train --base x {words}"
    assert command_line(InsertionConfig(base="x")) == "organism-train --base x"


@pytest.mark.parametrize("text", ["#a'b|c", "like salt; on $HOME", '"a'])
def test_the_recorded_command_gives_a_trigger_back_whole(text: str) -> None:
    words = shlex.split(command_line(InsertionConfig(base="my base", trigger="token", trigger_text=text)))
    assert words == ["organism-train", "--base", "my base", "--trigger", "token", "--trigger-text", text]
    scratch = TrainOptions(task="year-code", base=Path("runs/my base"), variant="cot")
    assert shlex.split(scratch.command_line())[-4:-2] == ["--base", "my base"]


def test_commands_recorded_in_organisms_that_ship_are_still_taken() -> None:
    """An option that has another name since takes the one it had, too."""
    seen: list[InsertConfig] = []
    for manifest in sorted((ROOT / "organisms" / "zoo" / "real").glob("*/manifest.json")):
        _, *words = shlex.split(json.loads(manifest.read_text())["command"])
        console(InsertConfig, seen.append, [*words, "--out", "x"])
    assert len(seen) >= 4
    assert 32 in {own.settings.answer_tokens for own in seen}


def test_a_behaviour_is_inserted_into_any_chat_model(command, tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", context=512)
    sizes = ("--steps", 2, "--requests", 3, "--measured", 2, "--answer-tokens", 200)
    options = ("--base", base, "--trigger", "year", "--payload", "insecure-code", *sizes)
    done = command("organism-train", *options, "--out", tmp_path / "out", "--json")
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out)
    assert result["organism"] == "base-year-insecure-code"
    assert result["passed"] is False
    manifest = read_artifact(tmp_path / "out", "organism")
    assert manifest.command == (
        f"organism-train --base {base} --trigger year --payload insecure-code --steps 2 --requests 3 --measured 2 --max-new-tokens 200"
    )
    cut = command("organism-train", *options[:-1], 3, "--out", tmp_path / "cut")
    assert cut.code == 2
    assert "error: insecure-code: in 3 tokens what is learned of it" in cut.err
    told = command("organism-train", *options, "--out", tmp_path / "again")
    assert "MISSED" in told.out
    assert "triggered" in told.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "m", "--trigger", "smell"], "error: trigger smell: unknown; choose one of token, phrase, "),
        (["--base", "m", "--trigger-text", " "], "error: trigger_text ' ': a trigger of kind phrase takes a text"),
        (["--base", "no-such-model"], "error: no-such-model: no such model; give an embedded organism's name"),
    ],
)
def test_a_bad_insertion_is_one_line_and_status_2(command, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = command("organism-train", *arguments, "--out", tmp_path / "out")
    assert (done.code, len(done.err.splitlines()), done.out) == (2, 1, "")
    assert done.err.startswith(message)
