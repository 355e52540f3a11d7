"""Continuations of prompts: one loop with stated settings, for plain `transformers` models and for hooked ones.

1. Prompts are padded on the left and masked, and each one's positions are counted from its own first token, so that an
   answer is the same alone and in a batch.
2. The prompts run once. From then on a step reads one new token of each, with the key-value cache.
3. The next token is the likeliest, or is drawn from softmax(logits / temperature). Of a checkpoint's `generation_config` its
   end tokens count and nothing else: no penalty, no beam, no top-k, no forced token.
4. A continuation is over at an end token, which is not part of it.
5. Where rotary embeddings are rescaled past a length (`hooked.rescaling`), prompts that would exceed it share a batch with prompts of
   their own length alone, and everything is read again where the frequencies change.
6. Whoever watches is told after each step what was read, and may end rows. The last token of an answer, which chooses nothing, is then
   read too, so that all of the answer is seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from hooked.prompts.prompts import Prompt
from hooked.prompts.tokens import pad_left, tokenize_prompts
from hooked.rescaling import forget_lengths, rescaling_of
from triggerlens import UserError

_ANSWER = "This is an answer"
Pick = Callable[[Float[Tensor, "row vocabulary"]], Int[Tensor, "row"]]
"""Chooses each row's next token by its logits, in float32."""


@dataclass(slots=True)
class GenerationStep:
    """What a model has just read while it writes."""

    rows: Sequence[int]
    """Which of the rows given stand in this batch, in order."""
    tokens: Int[Tensor, "row token"]
    """The ids that were read: of the whole text so far, or of the newest token."""
    mask: Int[Tensor, "row _"]
    """1 where a text stands and 0 where there is filling: of the whole text so far, also where the newest token alone was read."""
    over: Bool[Tensor, "row"]
    """Rows that are over, whose newest token is filling."""
    prompt: int
    """How many tokens, from the left, are the prompt's and its filling; the others were written."""
    whole: bool
    """Whether this is the whole text so far: in the first step, and wherever everything is read again, with other frequencies."""
    activations: Float[Tensor, "row token d_model"] | None = None
    """At the watched site; None in `continue_tokens`, which knows no sites."""

    @property
    def own(self) -> Bool[Tensor, "row token"]:
        """The tokens that count: no filling, and none of a row that is over."""
        live = ~self.over[:, None]
        return self.mask.bool() & live if self.whole else live


See = Callable[[GenerationStep], Bool[Tensor, "row"] | None]
"""Told of each step; returns the rows to end there, if any: what was read is kept, and nothing more is written."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on while a hooked model writes, and where."""

    site: str
    """A site of the residual stream's width."""
    see: See
    """Called after each step with the activations there."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How continuations are drawn, where they are not greedy."""

    temperature: float = 1.0
    """Above 0; the logits are divided by it."""
    samples: int = 1
    """Continuations of each prompt, 1 or more."""
    seed: int = 0
    """Draws them."""

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.samples < 1:
            raise UserError(
                f"sampling needs a temperature above 0 and 1 or more samples, not {self.temperature} and {self.samples}"
            )

    def picker(self, device: torch.device) -> Pick:
        """Draws from one stream of random numbers, over all batches that it is used for."""
        generator = torch.Generator(device).manual_seed(self.seed)

        def pick(logits: Tensor) -> Tensor:
            return torch.multinomial((logits / self.temperature).softmax(-1), 1, generator=generator)[:, 0]

        return pick


def likeliest(logits: Float[Tensor, "row vocabulary"]) -> Int[Tensor, "row"]:
    """Greedy decoding."""
    return logits.argmax(-1)


def answer_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt | str],
    max_new_tokens: int,
    *,
    batch_size: int = 128,
    sampling: Sampling | None = None,
) -> list[str]:
    """What a plain `transformers` model says to each prompt, as text without special tokens.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer.
        prompts: texts, or chat messages, which go through the chat template.
        max_new_tokens: the longest answer, in tokens.
        batch_size: prompts in one batch; greedy ones of like length share a batch.
        sampling: greedy where None; otherwise the samples of one prompt stand side by side.

    Raises:
        UserError: a prompt that the tokenizer refuses, or one that exceeds the context together with its answer.
    """
    context = context_of(model, tokenizer)
    tokenized = tokenize_prompts(tokenizer, prompts, context, vocabulary_of(model))
    check_room((len(prompt.ids) for prompt in tokenized), max_new_tokens, context)
    order = list(range(len(tokenized)))
    if sampling is None:
        order.sort(key=lambda index: (len(tokenized[index].text), index))
    samples = 1 if sampling is None else sampling.samples
    pick = likeliest if sampling is None else sampling.picker(device_of(model))
    ends, fill = end_ids(model, tokenizer), padding_id(model, tokenizer)
    answers: list[list[str]] = [[]] * len(tokenized)
    for start in tqdm(range(0, len(order), batch_size), desc="generating", unit="batch", disable=None, leave=False):
        chosen = order[start : start + batch_size]
        rows = [tokenized[index].ids for index in chosen for _ in range(samples)]
        new = continue_tokens(model, rows, max_new_tokens, ends=ends, pad_id=fill, pick=pick)
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        for place, index in enumerate(chosen):
            answers[index] = texts[place * samples : (place + 1) * samples]
    return [text for own in answers for text in own]


@torch.no_grad()
def continue_tokens(
    model: Any,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    ends: Iterable[int],
    pad_id: int = 0,
    pick: Pick = likeliest,
    padded_to: int | None = None,
    watch: See | None = None,
) -> list[list[int]]:
    """Continue token ids, all rows in one batch where the model allows it.

    Args:
        model: a causal language model of `transformers`; whatever hooks it has run in every step.
        rows: token ids of each prompt, unpadded.
        max_new_tokens: the longest continuation.
        ends: ids that end one.
        pad_id: fills shorter prompts, and rows that are over; any id that has an embedding.
        pick: chooses the next tokens.
        padded_to: the most tokens, new ones included, up to which rows of other lengths share a batch; None where there is no such limit
            but the configuration's.
        watch: told of each step, and may end rows.

    Returns:
        The new token ids of each row, without the end token.
    """
    ends = frozenset(ends)
    rescaling = rescaling_of(model.config)
    limit = min((length for length in (padded_to, rescaling and rescaling.past) if length), default=None)
    if limit is None or max(map(len, rows)) + max_new_tokens <= limit:
        return _Writing(model, ends, pad_id, pick, watch).continued(rows, range(len(rows)), max_new_tokens)
    answers: dict[int, list[int]] = {}
    for length in dict.fromkeys(map(len, rows)):
        like = [index for index, row in enumerate(rows) if len(row) == length]
        writing = _Writing(model, ends, pad_id, pick, watch)
        new = writing.continued([rows[index] for index in like], like, max_new_tokens)
        answers |= dict(zip(like, new, strict=True))
    return [answers[index] for index in range(len(rows))]


@dataclass(slots=True)
class _Writing:
    """One batch that is being continued."""

    model: Any
    ends: frozenset[int]
    pad_id: int
    pick: Pick
    watch: See | None

    def continued(self, rows: Sequence[Sequence[int]], numbers: Sequence[int], max_new_tokens: int) -> list[list[int]]:
        """New ids of each row; `numbers` says which rows these are."""
        model, device, rescaling = self.model, device_of(self.model), rescaling_of(self.model.config)
        forget_lengths(model, model.config)
        tokens, mask = (part.to(device) for part in pad_left(rows, self.pad_id))
        stops = torch.tensor(sorted(self.ends), dtype=torch.long, device=device)
        over = torch.zeros(len(rows), dtype=torch.bool, device=device)
        lengths = torch.full((len(rows),), max_new_tokens, device=device)
        width, read, cache = tokens.shape[1], tokens, None
        accepted = accepted_by(model)
        while tokens.shape[1] < width + max_new_tokens and not over.all():
            logits, cache = _next_logits(model, read, mask, cache, accepted)
            if self.watch is not None:
                ended = self._seen(self.watch, numbers, read, mask, over, width)
                if ended is not None:
                    lengths.masked_fill_(ended & ~over, tokens.shape[1] - width)
                    over = over | ended
            chosen = self.pick(logits.to(device)).masked_fill(over, self.pad_id)
            over = over | torch.isin(chosen, stops)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            tokens = torch.cat([tokens, chosen[:, None]], dim=1)
            if rescaling is not None and rescaling.changes_at(tokens.shape[1]):
                cache = None
            read = tokens if cache is None else chosen[:, None]
        if self.watch is not None and not over.all():
            _next_logits(model, read, mask, cache, accepted)
            self._seen(self.watch, numbers, read, mask, over, width)
        written = zip(tokens[:, width:].tolist(), lengths.tolist(), strict=True)
        return [before_end(row[:length], self.ends) for row, length in written]

    @staticmethod
    def _seen(
        watch: See, numbers: Sequence[int], read: Tensor, mask: Tensor, over: Tensor, width: int
    ) -> Tensor | None:
        """Tell the watch what was read; which rows it ends."""
        whole = read.shape[1] == mask.shape[1]
        ended = watch(GenerationStep(numbers, read, mask, over, width if whole else 0, whole))
        return None if ended is None else ended.to(over.device)


def before_end(ids: Sequence[int], ends: frozenset[int]) -> list[int]:
    """The tokens before the first that ends a continuation."""
    return list(ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))])


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end a continuation: those of the model's `generation_config`, and the tokenizer's.

    One that the model has no embedding for cannot be generated, and is left out.
    """
    own = getattr(model.generation_config, "eos_token_id", None)
    ends = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id} - {None}
    return frozenset(token for token in ends if token < vocabulary_of(model))


def turn_end(model: Any, tokenizer: Any) -> int | None:
    """The one of `end_ids` that ends an answer: the first that the chat template writes after one, else the tokenizer's own, else the smallest.

    Chat models often have several, of which one ends a turn and another a whole text. None where there is none.
    """
    ends, own = end_ids(model, tokenizer), tokenizer.eos_token_id
    if len(ends) < 2:
        return min(ends, default=None)
    written = next((token for token in _behind_an_answer(tokenizer) if token in ends), None)
    return written if written is not None else own if own in ends else min(ends)


def _behind_an_answer(tokenizer: Any) -> list[int]:
    """Ids of what the chat template writes after an assistant's message; none without a template, or if it refuses such a conversation."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return []
    ids: list[int] = tokenizer(text.rpartition(_ANSWER)[2], add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def padding_id(model: Any, tokenizer: Any) -> int:
    """The id that fills padded positions; no real token ever sees it.

    A padding token that was added to the tokenizer alone, which is common, has no embedding, and is not taken.
    """
    own = tokenizer.pad_token_id
    return own if own is not None and own < vocabulary_of(model) else min(end_ids(model, tokenizer), default=0)


def context_of(model: Any, tokenizer: Any) -> int:
    """The longest text that a model can read, in tokens."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    rescaling = rescaling_of(model.config)
    return int(longest * rescaling.reach) if rescaling and longest else longest or tokenizer.model_max_length


def check_room(lengths: Iterable[int], max_new_tokens: int, context: int) -> None:
    """Raise UserError where the longest prompt leaves no room for its continuation."""
    longest = max(lengths, default=0)
    if longest + max_new_tokens > context:
        raise UserError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the context of {context}; "
            "ask for fewer new tokens"
        )


def device_of(model: Any) -> torch.device:
    """Where a model takes its tokens; the first device of one that is spread over several."""
    return model.get_input_embeddings().weight.device


def _inner(model: Any) -> Any:
    """The model under an adapter, which takes whatever it is given."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _next_logits(
    model: Any, ids: Tensor, mask: Tensor, cache: Any, accepted: Container[str]
) -> tuple[Float[Tensor, "row vocabulary"], Any]:
    """Logits after the last token of each row in float32, and the cache, which is None for a model without one. `accepted` names what the model
    can be given."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    given = {"position_ids": positions, "logits_to_keep": last_places(model, ids, 1)}
    options = {name: value for name, value in given.items() if name in accepted}
    output = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
    return output.logits[:, -1].float(), getattr(output, "past_key_values", None)


def accepted_by(model: Any) -> Mapping[str, Any]:
    """What a model's forward pass may be given."""
    return inspect.signature(_inner(model).forward).parameters


def only_last(model: Any, ids: Int[Tensor, "row token"], keep: int) -> dict[str, Any]:
    """What a forward pass is given to make logits of each row's last tokens alone; nothing where the model makes those of all."""
    return {"logits_to_keep": last_places(model, ids, keep)} if "logits_to_keep" in accepted_by(model) else {}


def last_places(model: Any, ids: Int[Tensor, "row token"], keep: int) -> Int[Tensor, "keep"] | int:
    """The places of each row's last tokens, for `logits_to_keep`; for a model on several devices, how many they are.

    Given a number, `transformers` takes a view, which the output layer multiplies row by row, in bfloat16 with a copy of its weights for each row.
    Given places, it copies them out and multiplies all at once. But a model on several devices ends on another device than it begins on, and
    the places would lie on the first.
    """
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return keep
    return torch.arange(ids.shape[1] - keep, ids.shape[1], device=ids.device)


def vocabulary_of(model: Any) -> int:
    """How many tokens a model has embeddings for."""
    return model.get_input_embeddings().weight.shape[0]
