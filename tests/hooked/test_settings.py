"""Greedy is the likeliest token, step by step, whatever a checkpoint's generation_config says, and an edit that changes nothing changes nothing."""

import json

import pytest
import torch
from architectures import build
from hypothesis import HealthCheck, given, settings, strategies as st
from tiny_models import tiny_tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig

from hooked import answer_prompts, load_model

TEXTS = ["hello there, a longer text than the others are, past every window", "short", "in the middle of it"]
NEW = 8
SETTINGS = {
    "repetition_penalty": st.sampled_from([0.5, 1.3, 5.0]),
    "encoder_repetition_penalty": st.just(1.5),
    "no_repeat_ngram_size": st.sampled_from([1, 2]),
    "num_beams": st.just(3),
    "num_beam_groups": st.just(3),
    "diversity_penalty": st.just(0.5),
    "length_penalty": st.just(2.0),
    "early_stopping": st.booleans(),
    "do_sample": st.booleans(),
    "temperature": st.sampled_from([0.1, 2.0]),
    "top_k": st.sampled_from([1, 50]),
    "top_p": st.sampled_from([0.1, 0.9]),
    "min_p": st.just(0.2),
    "typical_p": st.just(0.5),
    "epsilon_cutoff": st.just(0.1),
    "forced_bos_token_id": st.just(7),
    "forced_eos_token_id": st.just(9),
    "bad_words_ids": st.just([[5], [6, 7]]),
    "suppress_tokens": st.just([5, 6, 40, 41]),
    "begin_suppress_tokens": st.just([20, 21]),
    "sequence_bias": st.just([[[5], 9.0]]),
    "exponential_decay_length_penalty": st.just([2, 1.5]),
    "renormalize_logits": st.booleans(),
    "min_length": st.sampled_from([3, 90]),
    "min_new_tokens": st.sampled_from([3, 90]),
    "max_length": st.sampled_from([1, 20]),
    "max_new_tokens": st.sampled_from([1, 3]),
    "stop_strings": st.sampled_from(["x", ["a", "e"]]),
    "return_dict_in_generate": st.just(True),
    "output_scores": st.just(True),
    "output_hidden_states": st.just(True),
    "output_attentions": st.just(True),
    "num_return_sequences": st.sampled_from([2, 3]),
    "use_cache": st.booleans(),
    "cache_implementation": st.sampled_from(["static", "dynamic", "offloaded"]),
    "prompt_lookup_num_tokens": st.just(3),
    "penalty_alpha": st.just(0.6),
    "guidance_scale": st.just(1.5),
    "watermarking_config": st.just({"bias": 9.0, "context_width": 1}),
    "pad_token_id": st.sampled_from([0, 2, 9]),
    "eos_token_id": st.sampled_from([2, [2, 17], [41, 10**6], None]),
    "transformers_version": st.just("4.0.0"),
}


@pytest.fixture(
    scope="module",
    params=[(name, backend) for name in ("llama", "gemma3") for backend in ("nnsight", "transformer-lens")],
    ids=lambda param: " ".join(param),
)
def hooked(request, tmp_path_factory):
    """A model, what its logits say step by step, and the same model plain; gemma3 has a window shorter than the texts."""
    name, backend = request.param
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    model, plain = load_model(build(name), tokenizer=tokenizer, backend=backend), build(name)
    prompts, steps = model.tokenize(TEXTS), []
    for prompt in prompts:
        ids = list(prompt.ids)
        for _ in range(NEW):
            with torch.no_grad():
                ids.append(int(plain(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        steps.append(ids[len(prompt.ids) :])
    return model, plain, prompts, steps


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(chosen=st.lists(st.sampled_from(sorted(SETTINGS)), max_size=6, unique=True), data=st.data())
def test_no_setting_of_a_checkpoint_changes_an_answer(hooked, chosen, data):
    model, plain, prompts, steps = hooked
    own = {"eos_token_id": 2} | {name: data.draw(SETTINGS[name], label=name) for name in chosen}
    for owner in (model.hf_model, plain):
        owner.generation_config = GenerationConfig()
        for name, value in own.items():  # some of them together are refused by the constructor, but not in a file
            setattr(owner.generation_config, name, value)
    ends = {own["eos_token_id"]} if not isinstance(own["eos_token_id"], list) else set(own["eos_token_id"])
    ends |= {model.tokenizer.eos_token_id}
    expected = [row[: next((place for place, token in enumerate(row) if token in ends), NEW)] for row in steps]
    assert model.generate(prompts, NEW) == expected
    assert [model.generate([prompt], NEW)[0] for prompt in prompts] == expected
    same = dict.fromkeys(("resid_pre.0", "head_out.1.2", "attn_out.1", "mlp_out.2", "resid_post.1"), torch.clone)
    assert model.generate(prompts, NEW, edits=same) == expected
    texts = model.tokenizer.batch_decode(expected, skip_special_tokens=True)
    assert answer_prompts(plain, model.tokenizer, TEXTS, NEW) == texts


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"return_dict_in_generate": True, "stop_strings": ["x"]},
        {"do_sample": False, "temperature": 0.9, "num_beams": 3},
        {"eos_token_id": [2, 3]},
        {"cache_implementation": "static", "use_cache": False},
    ],
    ids=lambda own: ", ".join(own),
)
@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
def test_nor_does_it_out_of_a_file(own, backend, tmp_path):
    build("llama").save_pretrained(tmp_path)
    tiny_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2} | own))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu", backend=backend)
    prompt = model.tokenize(["hello there"])[0]
    ids = list(prompt.ids)
    while len(ids) < len(prompt.ids) + NEW and ids[-1] not in model.end_ids:
        with torch.no_grad():
            ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = [token for token in ids[len(prompt.ids) :] if token not in model.end_ids]
    assert model.generate([prompt], NEW)[0] == expected
    assert model.generate([prompt], NEW, edits={"resid_post.0": torch.clone})[0] == expected
