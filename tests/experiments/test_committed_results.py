"""The committed results: findings are what their cells give, verdicts and figures hang on no label."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from experiments import EXPERIMENTS, chosen_result
from experiments.claims import insertion, persistence, persistence_axes, rare_answers, unknown_trigger, zoo_leaderboard
from experiments.claims_table import claims_table
from experiments.shared.grid import ModelsExperiment, summarise_all

GRIDS = {
    "insertion": insertion.summarise,
    "zoo-leaderboard": zoo_leaderboard.summarise,
    "unknown-trigger": unknown_trigger.summarise,
    "rare-answers": rare_answers.summarise,
    "persistence": lambda config, cells: persistence.summarise(persistence.cells_of(config), cells),
    "persistence-axes": lambda config, cells: tuple(
        finding for row in config.organisms for finding in persistence_axes.row_findings(config, row, cells)
    ),
}


@pytest.fixture(scope="module")
def results():
    return {name: chosen_result(name) for name in EXPERIMENTS}


def renamed(result):
    """The same result with other words wherever a person would read them."""
    findings = tuple(
        replace(one, label="a label", detail="a detail", specimen=replace(one.specimen, label="a model"))
        for one in result.findings
    )
    return replace(result, findings=findings)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_findings_are_what_the_cells_give(results, name):
    experiment, result = EXPERIMENTS[name], results[name]
    config = experiment.Config()
    if isinstance(experiment, ModelsExperiment):
        again = summarise_all(config, result.cells, experiment.summarise)
    else:
        again = GRIDS[name](config, result.cells)
    assert len(again) == len(result.findings)
    for ours, theirs in zip(again, result.findings, strict=True):
        ends = [(one.estimate.value, one.estimate.low, one.estimate.high) for one in (ours, theirs)]
        assert ends[0] == pytest.approx(ends[1], abs=1e-12)
        assert ours == replace(theirs, estimate=ours.estimate)
        assert (ours.estimate.count, ours.estimate.n) == (theirs.estimate.count, theirs.estimate.n)


def test_no_two_findings_are_of_the_same_thing(results):
    for result in results.values():
        names = [(finding.measure, finding.specimen, finding.arm) for finding in result.findings]
        assert len(set(names)) == len(names)


def test_a_verdict_hangs_on_no_label(results):
    before = claims_table(results)
    after = claims_table({name: renamed(result) for name, result in results.items()})
    assert len(before) > 20
    for ours, theirs in zip(before, after, strict=True):
        assert (ours.claim, ours.model, ours.published) == (theirs.claim, theirs.model, theirs.published)
        assert (ours.ours, ours.verdict) == (theirs.ours, theirs.verdict)
        assert re.findall(r"\d[\d.e-]*", ours.controls) == re.findall(r"\d[\d.e-]*", theirs.controls)


@pytest.mark.parametrize(
    "code",
    [
        "from experiments import EXPERIMENTS, markdown, read_table; markdown(read_table())",
        "from commands.experiment_run import Config, run; run(Config(list=True))",
        "from figures import FIGURES; list(FIGURES)",
    ],
)
def test_listing_and_judging_load_no_torch(code):
    loaded = f"import sys\n{code}\nassert not {{'torch', 'transformers', 'sklearn'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], stdout=subprocess.DEVNULL).returncode == 0
