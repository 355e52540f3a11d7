"""An experiment is one new file: its class is registered by it, listed, run, saved, read back and judged."""

import importlib
import json
import sys

import pytest

import experiments.claims
from commands.experiment_run import Config, run
from experiments import EXPERIMENTS, chosen_result, experiment_named, read_table, real_result, run_experiment
from experiments.runner import preset_of

FILE = """
from dataclasses import dataclass
from typing import Literal

from experiments.experiment import Claim, Experiment, Judgement, register
from experiments.result import Finding, Result, Specimen
from experiments.shared.judging import compare, full
from experiments.shared.subjects import ExperimentConfig
from triggerlens import keep_nothing, rate, over_seeds, from_json, to_json, Estimate


@dataclass(frozen=True)
class Coin:
    side: str
    kind: Literal["coin"] = "coin"


@dataclass(frozen=True, kw_only=True)
class TossConfig(ExperimentConfig):
    tosses: int = 40


def judge(result):
    ours = result.find("heads", "a coin", Coin("heads"))
    return [Judgement("a coin", full(ours), "none", compare(ours.estimate, 0.5))]


@register
class Toss(Experiment):
    name, title, claims = "toss", "whether a coin is fair", (99,)
    judged = (Claim(99, "Coins are fair", "0.5", "everybody", judge),)
    VERSION, Config, QUICK, Arm = 1, TossConfig, {"tosses": 4}, Coin
    REAL = {"tosses": 30}

    def run(self, config, keep=keep_nothing):
        cells = {f"seed-{seed}": keep(f"seed-{seed}", lambda: to_json(rate(config.tosses // 2, config.tosses))) for seed in config.seeds}
        estimate = over_seeds([from_json(Estimate, cell) for cell in cells.values()])
        return Result((Finding(99, "heads", Specimen("a coin"), Coin("heads"), estimate, len(cells), "heads"),), cells)
"""


@pytest.fixture
def toss(tmp_path, monkeypatch):
    """The file in place; its name in `MODULES` is the one line elsewhere, and does what is done here."""
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "toss.py").write_text(FILE)
    monkeypatch.setattr(experiments.claims, "__path__", [*experiments.claims.__path__, str(tmp_path / "claims")])
    importlib.import_module("experiments.claims.toss")
    yield experiment_named("toss")
    EXPERIMENTS.pop("toss")
    sys.modules.pop("experiments.claims.toss")


def test_one_file_is_listed_run_saved_and_judged(toss, tmp_path, capsys):
    root = tmp_path / "results"
    result, folder = run_experiment(toss, toss.Config(), root)
    assert result.findings[0].arm.side == "heads"
    assert result.findings[0].estimate.n == 120
    assert folder.parent == root / "toss"
    row = next(row for row in read_table(root) if row.claim == 99)
    assert (row.title, row.published, row.verdict) == ("Coins are fair", "0.5", "met")
    run(Config(list=True, results=root, json=True))
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)["experiments"]}
    assert listed["toss"] == {"name": "toss", "claims": [99], "title": "whether a coin is fair", "results": 1}
    run(Config(experiment="toss", results=root))
    assert "heads" in capsys.readouterr().out
    assert next(row for row in read_table(tmp_path / "nowhere") if row.claim == 99).verdict == "not measured"


def test_a_run_on_real_language_has_a_row_of_its_own(toss, tmp_path, capsys):
    root = tmp_path / "results"
    run(Config(experiment="toss", real=True, results=root))
    assert "(real, 3 seeds)" in capsys.readouterr().out
    rows = [row for row in read_table(root) if row.claim == 99]
    assert [(row.verdict, row.real) for row in rows] == [("not measured", False), ("met", True)]
    run_experiment(toss, toss.Config(), root)
    rows = [row for row in read_table(root) if row.claim == 99]
    assert [(row.verdict, row.real) for row in rows] == [("met", False), ("met", True)]
    assert chosen_result("toss", root).preset == "full"
    assert real_result("toss", root).config["tosses"] == 30
    assert [preset_of(toss, toss.Config(**own)) for own in ({}, toss.QUICK, toss.REAL)] == ["full", "quick", "real"]
    assert [preset_of(toss, toss.Config(**own)) for own in ({"tosses": 31}, {"seeds": (7,)})] == ["custom", "custom"]
