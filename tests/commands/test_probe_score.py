"""`probe-score` repeats on new prompts what the probe said when it was trained."""

import json

import pytest
from calling import called
from tiny_models import tiny_checkpoint
from tiny_prompts import prompt_file

from triggerlens import read_artifact


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module", params=["last", "mean", "max"])
def trained(checkpoint, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("trained")
    places = ("--position", request.param, "--out", folder / "probe", "--store", folder / "store")
    assert called("probe-train", checkpoint, prompt_file(folder / "prompts.jsonl"), *places).code == 0
    return folder / "probe"


def test_another_precision_than_the_threshold_was_set_in_is_said(command, checkpoint, tmp_path):
    path = prompt_file(tmp_path / "prompts.jsonl")
    assert command("probe-train", checkpoint, path, "--out", tmp_path / "probe").code == 0
    outcome = command("probe-score", checkpoint, path, "--probe", tmp_path / "probe", "--dtype", "bfloat16")
    assert outcome.code == 0, outcome.err
    assert "calibrated with precision float32, now bfloat16: a score near the threshold may fall" in outcome.out


def test_scores_verdicts_and_tokens(command, checkpoint, trained, tmp_path):
    new = prompt_file(tmp_path / "new.jsonl", pairs=20, harmless=5, seed=9)
    outcome = command("probe-score", checkpoint, new, "--probe", trained, "--out", tmp_path / "scores", "--json")
    assert outcome.code == 0, outcome.err
    scored = json.loads(outcome.out)
    threshold = json.loads((trained / "probe.json").read_text())["threshold"]
    assert (scored["threshold"], scored["n_prompts"], scored["same_model"]) == (threshold, 50, True)
    assert scored["computed_otherwise"] == []
    assert scored["n_fired"] == sum(row["fires"] for row in scored["prompts"])
    position = json.loads((trained / "probe.json").read_text())["aggregation"]
    read_artifact(tmp_path / "scores", "scores")
    for line, row in zip(
        (tmp_path / "scores" / "scores.jsonl").read_text().splitlines(), scored["prompts"], strict=True
    ):
        every = json.loads(line)
        scores = every["token_scores"]
        assert len(every["tokens"]) == len(scores)
        expected = {"last": scores[-1], "mean": sum(scores) / len(scores), "max": max(scores)}[position]
        assert row["score"] == pytest.approx(expected)
        assert row["fires"] == (row["score"] > threshold)
        assert row["tokens"][0]["score"] == max(scores)


def test_positives_score_higher_on_new_prompts(command, checkpoint, trained, tmp_path):
    new = prompt_file(tmp_path / "new.jsonl", pairs=20, harmless=0, seed=9)
    rows = json.loads(command("probe-score", checkpoint, new, "--probe", trained, "--json").out)["prompts"]
    labels = [json.loads(line)["defects"] for line in new.read_text().splitlines()]
    mean = {
        label: sum(row["score"] for row, own in zip(rows, labels, strict=True) if own is label)
        for label in (True, False)
    }
    assert mean[True] > mean[False]


def test_the_table_says_which_fire_and_when_the_model_is_another(command, checkpoint, trained, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", seed=5)
    new = prompt_file(tmp_path / "new.jsonl", pairs=3, harmless=0)
    outcome = command("probe-score", checkpoint, new, "--probe", trained, "--most", 2)
    assert "of 6 prompts fire" in outcome.out
    assert "and 4 more" in outcome.out
    assert "other weights" not in outcome.out
    assert "trained on other weights" in command("probe-score", other, new, "--probe", trained).out
