"""Every model that loads can be written again, with its own generation settings byte for byte, and is the same model when read."""

import json
from copy import deepcopy

import pytest
import torch
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer

from hooked import check_saveable, load_model, load_plain, plain_generation, save_plain
from triggerlens import UserError

FIELDS = {
    "none": {},
    "sampling without do_sample": {"do_sample": False, "temperature": 0.9, "top_p": 0.6},
    "top-k without do_sample": {"top_k": 7, "min_p": 0.1, "typical_p": 0.5, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1},
    "beams": {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True},
    "beam flags without beams": {"num_beams": 1, "early_stopping": True, "length_penalty": 0.5},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.1},
    "a dict": {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True},
    "scores without a dict": {"return_dict_in_generate": False, "output_scores": True},
    "stop strings": {"stop_strings": ["x"]},
    "lengths": {"max_length": 20, "max_new_tokens": 7, "min_new_tokens": 3},
    "several ends": {"eos_token_id": [2, 3], "suppress_tokens": [5], "forced_eos_token_id": 2},
    "a cache": {"cache_implementation": "static"},
    "fields of another version": {"watermarking_config": None, "made_up_field": 3, "transformers_version": "4.1.0"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "m")


@pytest.mark.parametrize("name", FIELDS)
def test_every_generation_config_that_loads_is_written_as_it_was(folder, tmp_path, name):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2} | FIELDS[name]))
    model, tokenizer, _ = load_plain(str(folder))
    check_saveable(model, tokenizer)
    held = model.generation_config.to_dict()
    save_plain(model, tokenizer, tmp_path / "again")
    assert (tmp_path / "again" / "generation_config.json").read_bytes() == path.read_bytes()
    assert model.generation_config.to_dict() == held, "the model is left as it is"
    again, own, _ = load_plain(str(tmp_path / "again"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert own.chat_template == tokenizer.chat_template
    save_plain(deepcopy(again), own, tmp_path / "a copy")
    assert (tmp_path / "a copy" / "generation_config.json").read_bytes() == path.read_bytes()


def test_a_model_that_was_loaded_and_saved_again_is_the_same_files(tmp_path):
    save_plain(tiny_model("llama"), tiny_tokenizer(tmp_path / "t"), tmp_path / "m")
    model, tokenizer, _ = load_plain(str(tmp_path / "m"))
    assert tokenizer.init_kwargs["is_local"], "what transformers would write of where it came from"
    save_plain(model, tokenizer, tmp_path / "again")
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("m", "again"))
    assert first == second
    assert not {"is_local", "local_files_only"} & set(json.loads(first["tokenizer_config.json"]))


def test_a_live_model_s_settings_are_written_without_being_judged(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(tmp_path / "t")
    model.generation_config.temperature = 0.3
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "by transformers")
    save_plain(model, tokenizer, tmp_path / "m")
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text())["temperature"] == 0.3
    load_plain(str(tmp_path / "m"))


def test_within_plain_generation_the_ends_stay_and_the_rest_is_off():
    model = tiny_model("llama")
    model.generation_config.eos_token_id, model.generation_config.repetition_penalty = [2, 3], 1.5
    own = model.generation_config
    with plain_generation(model):
        assert model.generation_config.eos_token_id == [2, 3]
        assert model.generation_config.repetition_penalty in (None, 1.0)
    assert model.generation_config is own


def test_a_live_peft_model_is_written_merged(tmp_path):
    peft = pytest.importorskip("peft")
    tokenizer = tiny_tokenizer(tmp_path / "t")
    adapted = peft.get_peft_model(
        tiny_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    ).eval()
    model = load_model(adapted, tokenizer=tokenizer)
    ids = torch.arange(3, 11)[None]
    expected = model.run(ids).logits
    save_plain(model.hf_model, tokenizer, tmp_path / "m")
    assert torch.equal(model.run(ids).logits, expected), "the live one is left as it is"
    assert not (tmp_path / "m" / "adapter_config.json").exists()
    again = load_model(str(tmp_path / "m"))
    torch.testing.assert_close(again.run(ids).logits, expected, rtol=0, atol=1e-4)


def test_what_cannot_be_written_is_refused_before_work_is_done(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(tmp_path / "t")
    model.save_pretrained = lambda *_, **__: (_ for _ in ()).throw(ValueError("The model is quantized\nwith made-up"))
    with pytest.raises(UserError, match="cannot be written as a checkpoint: The model is quantized with made-up"):
        check_saveable(model, tokenizer)
