"""Every architecture that is held to be readable, as tiny random models; and what each backend can read of it."""

import re
from pathlib import Path

import torch
import transformers
from tiny_models import larger, tiny_tokenizer
from transformers import AutoModelForCausalLM

from hooked import load_model
from triggerlens import UserError

WIDTH, LAYERS, HEADS, CONTEXT, VOCABULARY = 32, 3, 4, 128, 300
_PLAIN = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = _PLAIN | {"num_key_value_heads": 2}
_SIZED = _GROUPED | {"head_dim": 8}
_EXPERTS = _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
_GPT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT}
_QWEN_EXPERTS = _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_FALCON = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
_LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}

CONFIGS: dict[str, tuple[str, dict]] = {
    "apertus": ("Apertus", _GROUPED),
    "bloom": ("Bloom", {"hidden_size": WIDTH, "n_head": HEADS, "n_layer": LAYERS}),
    "codegen": ("CodeGen", _GPT | {"rotary_dim": 4, "n_ctx": CONTEXT}),
    "cohere": ("Cohere", _GROUPED),
    "cohere2": ("Cohere2", _GROUPED | {"sliding_window": 8}),
    "deepseek_v3": (
        "DeepseekV3",
        _PLAIN
        | {
            "num_key_value_heads": HEADS,
            "moe_intermediate_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
    ),
    "ernie4_5": ("Ernie4_5", _SIZED),
    "exaone4": ("Exaone4", _GROUPED | {"sliding_window": 8}),
    "falcon (7b)": ("Falcon", _FALCON | {"multi_query": True, "parallel_attn": True}),
    "falcon (40b)": ("Falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon (rw)": (
        "Falcon",
        _FALCON | {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True},
    ),
    "gemma2": ("Gemma2", _GROUPED | {"head_dim": 16, "sliding_window": 8}),
    "gemma3": ("Gemma3Text", _GROUPED | {"head_dim": 16, "sliding_window": 8}),
    "glm": ("Glm", _SIZED),
    "glm4": ("Glm4", _SIZED),
    "gpt2": ("GPT2", _GPT),
    "gpt_bigcode": ("GPTBigCode", _GPT),
    "gpt_neo": (
        "GPTNeo",
        {
            "hidden_size": WIDTH,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "attention_types": [[["global", "local", "global"], 1]],
            "window_size": 8,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "gpt_neox": ("GPTNeoX", _PLAIN),
    "gpt_oss": ("GptOss", _EXPERTS | {"head_dim": 8, "sliding_window": 8}),
    "gptj": ("GPTJ", _GPT | {"rotary_dim": 4}),
    "granite": (
        "Granite",
        _GROUPED
        | {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.25,
            "logits_scaling": 8.0,
        },
    ),
    "granitemoe": ("GraniteMoe", _EXPERTS | {"residual_multiplier": 0.5}),
    "helium": ("Helium", _SIZED),
    "lfm2": ("Lfm2", _GROUPED | {"layer_types": ["full_attention", "conv", "full_attention"]}),
    "llama": ("Llama", _PLAIN),
    "llama4": ("Llama4Text", _EXPERTS | {"head_dim": 8, "intermediate_size_mlp": 48}),
    "mistral": ("Mistral", _GROUPED | {"sliding_window": 8}),
    "mixtral": ("Mixtral", _EXPERTS),
    "mpt": ("Mpt", {"d_model": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "max_seq_len": CONTEXT}),
    "nemotron": ("Nemotron", _GROUPED),
    "olmo": ("Olmo", _GROUPED),
    "olmo2": ("Olmo2", _GROUPED),
    "olmo3": ("Olmo3", _GROUPED | {"sliding_window": 8}),
    "olmoe": ("Olmoe", _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    "opt": ("OPT", _PLAIN | {"ffn_dim": 48, "word_embed_proj_dim": WIDTH}),
    "phi": ("Phi", _GROUPED),
    "phi3": ("Phi3", _GROUPED),
    "phimoe": ("Phimoe", _EXPERTS | {"sliding_window": None}),
    "qwen2": ("Qwen2", _GROUPED),
    "qwen2_moe": ("Qwen2Moe", _QWEN_EXPERTS | {"shared_expert_intermediate_size": 16}),
    "qwen3": ("Qwen3", _GROUPED | {"head_dim": 16}),
    "qwen3_moe": ("Qwen3Moe", _QWEN_EXPERTS),
    "qwen3_next": (
        "Qwen3Next",
        _QWEN_EXPERTS
        | _LINEAR
        | {
            "head_dim": 8,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        },
    ),
    "seed_oss": ("SeedOss", _SIZED),
    "smollm3": ("SmolLM3", _GROUPED),
    "stablelm": ("StableLm", _GROUPED),
    "starcoder2": ("Starcoder2", _GROUPED),
}
REFUSED = {"mamba": ("Mamba", {"hidden_size": WIDTH, "num_hidden_layers": LAYERS})}
"""State-space models: no block has attention."""

EVERYDAY = {
    "apertus": "Apertus",
    "bloom": "BLOOM, BLOOMZ",
    "codegen": "CodeGen",
    "cohere": "Command R",
    "cohere2": "Command R7B, Command A",
    "deepseek_v3": "DeepSeek V3, R1",
    "ernie4_5": "ERNIE 4.5",
    "exaone4": "EXAONE 4",
    "falcon (7b)": "Falcon 7B",
    "falcon (40b)": "Falcon 40B",
    "falcon (rw)": "Falcon-RW",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3 (text)",
    "glm": "GLM-4-9B-hf",
    "glm4": "GLM-4-0414",
    "gpt2": "GPT-2, DistilGPT-2",
    "gpt_bigcode": "StarCoder",
    "gpt_neo": "GPT-Neo, TinyStories",
    "gpt_neox": "Pythia, GPT-NeoX-20B",
    "gpt_oss": "gpt-oss",
    "gptj": "GPT-J-6B",
    "granite": "Granite 3",
    "granitemoe": "Granite 3 MoE",
    "helium": "Helium",
    "lfm2": "LFM2",
    "llama": "Llama 2 and 3.x, TinyLlama, Vicuna, SmolLM2, Yi, R1-Distill-Llama",
    "llama4": "Llama 4 (text)",
    "mistral": "Mistral 7B, Zephyr",
    "mixtral": "Mixtral",
    "mpt": "MPT",
    "nemotron": "Nemotron-4, Minitron",
    "olmo": "OLMo",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
    "olmoe": "OLMoE",
    "opt": "OPT",
    "phi": "Phi-1, 1.5 and 2",
    "phi3": "Phi-3, Phi-4",
    "phimoe": "Phi-3.5-MoE",
    "qwen2": "Qwen 2 and 2.5, R1-Distill-Qwen",
    "qwen2_moe": "Qwen1.5-MoE, Qwen2-57B-A14B",
    "qwen3": "Qwen 3",
    "qwen3_moe": "Qwen3-30B-A3B, Qwen3-235B-A22B",
    "qwen3_next": "Qwen3-Next",
    "seed_oss": "Seed-OSS",
    "smollm3": "SmolLM3",
    "stablelm": "StableLM 2, StableLM-3B",
    "starcoder2": "StarCoder2",
}
"""Models that people know, by the architecture that their `config.json` names as `model_type`."""

TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"
HEAD = """# Supported models

`model_type` in a model's `config.json` names its architecture. Tiny random models of every architecture below are loaded by the tests with both
backends, and their streams compared with those of `transformers`. A row says which sites a backend offers; `resid_pre`, `head_out`, `attn_out`,
`mlp_out` and `resid_post` are there in all of them. A model that is not in the table may well load: its sites are tried when it is loaded, and what
does not hold is not offered.

| architecture | for example | nnsight | transformer-lens |
| --- | --- | --- | --- |
"""

TAIL = """
State-space models, which have no attention, are refused; so are models whose blocks do more with the stream than add what attention and MLP
give: Doge and Gemma 4 scale it (Gemma 4 is read where its scales are 1). Every cell of the table holds in bfloat16 too, but for
OLMo 1 to 3 with TransformerLens, whose norms take float32; float16 is tested with nnsight.
"""


def build(name: str, seed: int = 0):
    """A random model in float32, evaluation mode, with weights larger than at initialisation."""
    kind, options = (CONFIGS | REFUSED)[name]
    torch.manual_seed(seed)
    special = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return larger(AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**special, **options)).eval())


def loaded(name: str, backend: str, folder: Path):
    """The hooked model, and a plain one of the same weights."""
    return load_model(build(name), tokenizer=tiny_tokenizer(folder), backend=backend), build(name)


def offered(name: str, backend: str, folder: Path) -> str:
    """A cell of the table."""
    try:
        return cell_of(loaded(name, backend, folder)[0])
    except UserError:
        return "not read"


def cell_of(model) -> str:
    """What a loaded model offers beside the common sites."""
    kinds = [kind for kind in ("resid_mid", "q", "k", "v", "pattern") if kind in model.kinds]
    return ", ".join(f"`{kind}`" for kind in kinds) or "the common sites alone"


def rows_of(text: str) -> dict[str, list[str]]:
    """The table's cells by architecture."""
    rows = re.findall(r"^\| (.+?) \| .+? \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    return {name: [nnsight, bridge] for name, nnsight, bridge in rows if name in CONFIGS}


def write_table(folder: Path) -> None:
    """Make the table anew: `python tests/support/architectures.py`."""
    lines = [
        f"| {name} | {EVERYDAY[name]} | {offered(name, 'nnsight', folder)} | {offered(name, 'transformer-lens', folder)} |"
        for name in CONFIGS
    ]
    TABLE.write_text(HEAD + "\n".join(lines) + "\n" + TAIL, encoding="utf-8")


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as temporary:
        write_table(Path(temporary))
