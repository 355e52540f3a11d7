"""`probe-watch` prints what fires as it is written, stops it, goes on where it was interrupted, and refuses what cannot be watched."""

import json

import pytest
from made_probes import made
from tiny_models import tiny_checkpoint
from tiny_prompts import prompt_file

import probes
from commands import probe_train, probe_watch
from triggerlens import read_artifact

SHORT = ("--max-new-tokens", 8, "--batch-size", 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return prompt_file(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", pairs=2, harmless=0)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return made("max").save(tmp_path_factory.mktemp("probe") / "probe")


def lines(outcome):
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_lines_come_for_each_token_and_each_answer(command, checkpoint, prompts, probe, tmp_path):
    free = lines(command("probe-watch", checkpoint, prompts, "--probe", probe, "--json", "--per-token", *SHORT))
    assert [line["event"] for line in free[-3:]] == ["answer", "answer", "summary"]
    tokens = {line["index"]: [] for line in free if line["event"] == "token"}
    for line in free:
        if line["event"] == "token":
            assert line["place"] == len(tokens[line["index"]])
            tokens[line["index"]].append(line)
    answers = [line for line in free if line["event"] == "answer"]
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3]
    for answer in answers:
        scores = [line["score"] for line in tokens[answer["index"]]]
        assert (answer["answer_tokens"], answer["highest"]) == (len(scores), pytest.approx(max(scores)))
        assert (answer["fired"], answer["fired_after"]) == (False, None)
    highest = sorted(answer["highest"] for answer in answers)
    strict = made("max", threshold=(highest[1] + highest[2]) / 2).save(tmp_path / "strict")
    stopped = lines(command("probe-watch", checkpoint, prompts, "--probe", strict, "--json", "--stop", *SHORT))
    assert (stopped[-1]["n_fired"], stopped[-1]["n_stopped"], stopped[-1]["n_prompts"]) == (2, 2, 4)
    for whole, short in zip(answers, stopped, strict=False):
        assert short["ids"] == whole["ids"][: short["fired_after"]]


def test_the_table_says_what_fires_and_when_the_model_is_another(command, checkpoint, prompts, probe, tmp_path):
    low = made("max", threshold=-1e9).save(tmp_path / "low")
    outcome = command("probe-watch", checkpoint, prompts, "--probe", low, "--most", 3, "--stop", *SHORT)
    assert "4 of 4 answers fire" in outcome.out
    assert outcome.out.count("stopped at token 1") == 3
    assert "and 1 more" in outcome.out
    streamed = command("probe-watch", checkpoint, prompts, "--probe", probe, "--per-token", "--limit", 1, *SHORT)
    assert "0 of 1 answers fire" in streamed.out
    assert f"{prompts}:1\t0\t" in streamed.out
    elsewhere = made("max", model="a-model", weights_sha256="0" * 64).save(tmp_path / "elsewhere")
    assert (
        "trained on other weights (a-model)"
        in command("probe-watch", checkpoint, prompts, "--probe", elsewhere, "--limit", 1, *SHORT).out
    )


def test_an_answer_is_by_default_as_long_as_those_that_thresholds_are_frozen_on():
    """Those are the answers that `probe-train` has the model write."""
    assert probe_watch.Config(model="m").max_new_tokens == probe_train.Config(model="m").answering.max_new_tokens


def test_answers_longer_than_any_that_the_threshold_was_frozen_on_are_counted_in_a_note(
    command, checkpoint, prompts, probe, tmp_path
):
    facts = {"target_fpr": 0.01, "n_negative": 40}
    for longest, longer, options in ((3, 4, ()), (3, 1, ("--limit", 1)), (8, 0, ())):
        known = made("max", calibration=facts | {"longest_answer": longest}).save(tmp_path / f"{longest}-{longer}")
        options = ("probe-watch", checkpoint, prompts, "--probe", known, *options, *SHORT)
        assert lines(command(*options, "--json"))[-1]["n_longer"] == longer
        told = [line for line in command(*options).out.splitlines() if "longer than any" in line]
        of = "longer than any that the threshold was frozen on (3 tokens)"
        assert (
            told
            == {
                4: [f"note: 4 answers are {of}: more of them may fire by chance"],
                1: [f"note: 1 answer is {of}: it may fire by chance"],
                0: [],
            }[longer]
        )
    unknown = ("probe-watch", checkpoint, prompts, "--probe", probe, *SHORT)
    assert lines(command(*unknown, "--json"))[-1]["n_longer"] is None
    assert "longer than any" not in command(*unknown).out


def test_an_answer_with_escapes_makes_the_terminal_do_nothing(command, checkpoint, prompts, probe, monkeypatch):
    monkeypatch.setattr(
        "transformers.PreTrainedTokenizerBase.batch_decode", lambda self, ids, **options: ["\x1b[2J\x9bgone"] * len(ids)
    )
    for options in ((), ("--json",)):
        outcome = command("probe-watch", checkpoint, prompts, "--probe", probe, *options, *SHORT)
        assert outcome.code == 0, outcome.err
        assert "\\u001b[2J\\u009bgone" in outcome.out
        assert not set(outcome.out) & set("\x1b\x9b")


def test_an_interrupted_run_goes_on_where_it_stopped(command, checkpoint, prompts, probe, tmp_path, monkeypatch):
    options = (checkpoint, prompts, "--probe", probe, "--json", "--temperature", 1.0, *SHORT)
    whole = lines(command("probe-watch", *options))
    watch, calls = probes.watch_answers, []

    def once(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return watch(*args, **kwargs)

    monkeypatch.setattr(probes, "watch_answers", once)
    out = ("--out", tmp_path / "out")
    assert command("probe-watch", *options, *out).code == 130
    outcome = command("probe-watch", *options, *out)
    assert len(calls) == 3, "the first batch was not answered again"
    assert lines(outcome)[:-1] == whole[:-1]
    read_artifact(tmp_path / "out", "watched-answers")
    kept = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [{"event": "answer", **row} for row in kept] == whole[:-1]
    assert command("probe-watch", *options, *out).code == 2, "a finished run is not overwritten"
    calls.clear()
    assert command("probe-watch", *options, *out, "--overwrite").code == 130
    assert lines(command("probe-watch", *options, *out, "--overwrite"))[:-1] == whole[:-1]
    assert len(calls) == 3, "nor what an interrupted run that replaces it has answered"


def test_another_probe_in_the_same_folder_does_not_go_on_with_what_one_has_watched(
    command, checkpoint, prompts, tmp_path, monkeypatch
):
    watch, options = probes.watch_answers, ("--probe", made("max").save(tmp_path / "probe"), "--out", tmp_path / "out")

    def stopped(*_, **__):
        raise KeyboardInterrupt

    def once(*args, **options):
        monkeypatch.setattr(probes, "watch_answers", stopped)
        return watch(*args, **options)

    monkeypatch.setattr(probes, "watch_answers", once)
    assert command("probe-watch", checkpoint, prompts, *options, *SHORT).code == 130
    monkeypatch.setattr(probes, "watch_answers", watch)
    made("max", threshold=-1e9).save(tmp_path / "probe", overwrite=True)
    again = ("probe-watch", checkpoint, prompts, *options, "--json", *SHORT)
    outcome = command(*again)
    assert (outcome.code, outcome.out) == (2, "")
    assert "an unfinished run with other settings (probe)" in outcome.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert lines(command(*again, "--overwrite"))[-1]["n_fired"] == 4, "all answers anew, by the other probe"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--max-new-tokens", 120), "120 new ones exceed the context of 128"),
        (("--max-new-tokens", 0), "--max-new-tokens 0: must be at least 1"),
        (("--temperature", -1), "--temperature -1.0: must be 0 or above"),
        (("--probe", "nowhere"), "nowhere: no probe here"),
    ],
)
def test_bad_input_is_one_line(command, checkpoint, prompts, probe, options, problem):
    outcome = command("probe-watch", checkpoint, prompts, "--probe", probe, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert problem in outcome.err.splitlines()[-1]
