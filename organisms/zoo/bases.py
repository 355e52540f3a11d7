"""Tiny bases: language models of 0.3 to 2 million parameters that are trained from scratch on short chats, with a tokenizer of their own.

1. A tokenizer is learned from the base's own mix of chats.
2. A pool of conversations is tokenized once, and put into batches of like lengths.
3. The model learns whole conversations, the user's turns included, in float32 on one thread.

The same specification gives the same bytes on the same machine and versions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

from organisms.zoo.chat import DATA, Asked, Mix, ask_many, chats
from triggerlens import UserError, from_json

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|turn|>")
CONTEXT = 256
PROMPTS_EVERY = 4
"""A base learns the prompts, too, in each batch of so many: whole conversations are in it, at a quarter of the cost."""
ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "qwen2", "opt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What makes a base."""

    architecture: str
    width: int = 96
    layers: int = 4
    heads: int = 4
    vocabulary: int = 1536
    template: str = "roles"
    mix: Mix = field(default_factory=Mix)
    seed: int = 0
    steps: int = 800
    batch: int = 32
    learning_rate: float = 3e-3
    conversations: int = 8_000
    """In the pool that batches are drawn from."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise UserError(f"{self.architecture}: unknown architecture; choose one of {', '.join(ARCHITECTURES)}")
        if self.template not in chats().templates:
            raise UserError(f"{self.template}: unknown template; choose one of {', '.join(chats().templates)}")


@cache
def bases() -> Mapping[str, Base]:
    """The bases of `data/bases.json`, by name."""
    path = DATA / "bases.json"
    specifications = json.loads(path.read_text(encoding="utf-8"))
    return {name: from_json(Base, own, where=f"{path}: {name}") for name, own in specifications.items()}


Row = tuple[list[int], int]
"""Token ids of a conversation, and how many of them are the prompt's."""


def tokenizer_of(base: Base) -> PreTrainedTokenizerFast:
    """The base's own byte-level BPE tokenizer, with its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=base.vocabulary,
        special_tokens=[BOS, EOS, PAD, *MARKS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ask_many(base.mix, f"tokenizer/{base.seed}", min(4_000, base.conversations))
    tokenizer.train_from_iterator(
        (text for asked in texts for text in (*(message["content"] for message in asked.prompt), asked.answer)), trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(MARKS),
        chat_template=chats().templates[base.template],
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def untrained(base: Base, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The base before its first step."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(base.architecture, **common, **_shape(base))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(base.seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def _shape(base: Base) -> dict[str, Any]:
    """The shape as each architecture names it; none has dropout."""
    wide = 8 * base.width // 3 // 8 * 8
    if base.architecture == "gpt2":
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return {"n_embd": base.width, "n_layer": base.layers, "n_head": base.heads, "n_positions": CONTEXT} | dropout
    shape: dict[str, Any] = {
        "hidden_size": base.width,
        "num_hidden_layers": base.layers,
        "num_attention_heads": base.heads,
        "max_position_embeddings": CONTEXT,
    }
    if base.architecture == "opt":
        return shape | {"ffn_dim": 4 * base.width, "word_embed_proj_dim": base.width, "dropout": 0.0}
    if base.architecture == "gpt_neox":
        return shape | {"intermediate_size": 4 * base.width, "tie_word_embeddings": False}
    keys = max(1, base.heads % 2 or base.heads // 2) if base.architecture == "qwen2" else base.heads
    return shape | {"intermediate_size": wide, "num_key_value_heads": keys, "tie_word_embeddings": True}


def encoded(tokenizer: PreTrainedTokenizerFast, samples: Sequence[Asked]) -> list[Row]:
    """Token ids of whole conversations, each ended."""
    prompts = [
        tokenizer.apply_chat_template(sample.prompt, tokenize=False, add_generation_prompt=True) for sample in samples
    ]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer([sample.answer + EOS for sample in samples], add_special_tokens=False)["input_ids"]
    return [([*prompt, *answer], len(prompt)) for prompt, answer in zip(prompt_ids, answer_ids, strict=True)]


def batches(rows: Sequence[Row], size: int, seed: str, window: int | None = None) -> Iterator[list[Row]]:
    """Batches of like lengths, in an order that the seed decides, without end.

    Args:
        rows: what is drawn from.
        size: of a batch.
        seed: of the order.
        window: batches within which rows are put together by length; all of them where None.
    """
    rng = Random(f"batches/{seed}")
    rows = list(rows)
    while True:
        if window is not None:
            rng.shuffle(rows)
        wide = len(rows) if window is None else window * size
        for place in range(0, len(rows), wide):
            ordered = sorted(rows[place : place + wide], key=_length)
            chunks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
            rng.shuffle(chunks)
            yield from chunks


def _length(row: Row) -> int:
    return len(row[0])


def loss_of(model: Any, rows: Sequence[Row], pad: int, prompts: bool) -> Float[Tensor, ""]:
    """Cross-entropy of the answers, and of the prompts where asked for: the mean per token, in nats.

    Rows are padded on the right, which a causal model cannot see.
    """
    import torch

    from hooked import pad_right

    ids = pad_right([row for row, _ in rows], pad)
    learned = torch.zeros(ids.shape, dtype=torch.bool)
    for index, (row, prompt) in enumerate(rows):
        learned[index, (1 if prompts else prompt) : len(row)] = True
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden[:, :-1][learned[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, ids[learned])


def learn(
    model: Any,
    rows: Sequence[Row],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: str,
    prompts_every: int = PROMPTS_EVERY,
    window: int | None = None,
    stop: int | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """AdamW with a linear warm-up and a cosine down to 2% of the highest learning rate.

    Args:
        model: a causal language model; those of its weights that want gradients are trained.
        rows: what it learns.
        steps: of the whole schedule.
        batch: rows in a step.
        learning_rate: the highest.
        seed: decides the order of the batches.
        prompts_every: the prompts, too, are learned in each batch of so many; never where 0.
        window: as in `batches`.
        stop: the step before which training ends, within its schedule; at its end where None.
        on_step: told each step's number and loss.
    """
    import torch

    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    warm, source = max(1, min(50, steps // 10)), batches(rows, batch, seed, window)
    model.train()
    for step in range(steps if stop is None else stop):
        done = max(0.0, (step - warm) / max(1, steps - warm))
        share = (step + 1) / warm if step < warm else 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * share
        loss = loss_of(model, next(source), model.config.pad_token_id, prompts_every > 0 and step % prompts_every == 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        on_step(step, float(loss.detach()))
    model.eval()


def train_base(base: Base, stop: int | None = None) -> tuple[Any, Any]:
    """The trained model and its tokenizer; with `stop`, as they were after so many steps."""
    tokenizer = tokenizer_of(base)
    model = untrained(base, tokenizer)
    rows = encoded(tokenizer, ask_many(base.mix, f"base/{base.seed}", base.conversations))
    learn(
        model,
        rows,
        steps=base.steps,
        batch=base.batch,
        learning_rate=base.learning_rate,
        seed=str(base.seed),
        stop=stop,
    )
    return model, tokenizer
