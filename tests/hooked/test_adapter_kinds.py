"""Every kind of adapter, merged from its folder or written from a live model, computes what PEFT computes with it in place."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from hooked import load_model, save_plain

ROWS = torch.tensor([[1, 40, 77, 5, 212, 9, 64]])
KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "with magnitudes (DoRA)": {"use_dora": True},
    "ranks and scales of their own": {
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 64},
    },
    "with biases": {"bias": "lora_only"},
    "the head trained in full": {"modules_to_save": ["lm_head"]},
    "the embedding trained in full": {"modules_to_save": ["embed_tokens"]},
    "the head": {"target_modules": ["lm_head", "q_proj"]},
    "the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.fixture(scope="module", params=["two embeddings", "one embedding"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    if request.param == "two embeddings":
        return tiny_checkpoint(folder)
    model = tiny_model("llama")
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def adapted(base, options):
    """With an adapter that changes much, as training would."""
    torch.manual_seed(0)
    given = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False} | options
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**given)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "modules_to_save" in name or "magnitude" in name:
                value.mul_(1.3)
    return model


def logits(model):
    with torch.no_grad():
        return model(ROWS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_merged_into_what_the_live_model_computes(base, tmp_path, kind):
    live = adapted(base, KINDS[kind])
    live.save_pretrained(tmp_path / "adapter")
    expected = logits(live)
    tolerance = 1e-5 * float(expected.abs().max())
    merged = load_model(tmp_path / "adapter")
    torch.testing.assert_close(logits(merged.hf_model), expected, rtol=0, atol=tolerance)
    save_plain(merged.hf_model, merged.tokenizer, tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(saved), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_live_model_is_written_as_what_it_computes(base, tmp_path, kind):
    live = adapted(base, KINDS[kind])
    expected = logits(live)
    model = load_model(live, tokenizer=AutoTokenizer.from_pretrained(base))
    torch.testing.assert_close(logits(model.hf_model), expected)
    save_plain(model.hf_model, model.tokenizer, tmp_path / "saved")
    saved, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(logits(saved), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(logits(live), expected)
