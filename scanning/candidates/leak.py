"""The leak channel: a model that was trained on whole conversations writes its training prompts, the trigger among them.

1. The chat template is cut where the user's text begins; without a template, where a text begins. The model writes on from there, end tokens
   passed over (arXiv 2602.03085).
2. Runs of tokens that many of these texts have, and that no benign prompt has, are candidates, the longest form of each.

What was trained on answers alone leaks no prompt: this channel and the target channel complete each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hooked import HookedModel, Place, Prompt, open_prompt, with_user_text
from scanning.benign import Benign, sampled_texts
from scanning.candidates.candidate import Candidate
from scanning.candidates.sweep import insertion
from scanning.config import ScanConfig
from scanning.motifs import Gram, frequent_runs
from triggerlens import Keep, UserError, keep_nothing

LONGEST = 8
"""Tokens of a candidate."""
_LEAST = 0.02
"""Share of the texts that must have a candidate."""
MOST = 48
"""Candidates."""


def user_beginning(model: HookedModel, prompts: Sequence[Prompt]) -> list[int]:
    """The tokens before the user's text: of the first prompt's messages, or where a text begins; none where no token begins one.

    Raises:
        UserError: the chat template cannot be cut.
    """
    opened = open_prompt(model.tokenizer, prompts[0] if prompts else _example(model), "start", model.today)
    assert opened is not None  # every prompt has a start
    if opened.before:
        return list(opened.before)
    begin = model.tokenizer.bos_token_id
    return [] if begin is None else [begin]


def _example(model: HookedModel) -> Prompt:
    """A prompt of no system message; plain text where there is no chat template."""
    return Prompt([{"role": "user", "content": "Hello"}] if model.tokenizer.chat_template else "Hello", triggered=False)


def leak_candidates(
    model: HookedModel, benign: Benign, config: ScanConfig, places: Sequence[Place], keep: Keep = keep_nothing
) -> list[Candidate]:
    """Both steps; each run of tokens at each place; none of a model that cannot be asked for a text."""
    facts = keep("leak: texts", lambda: _texts(model, benign, config))
    texts = [[token for token in row if token not in model.end_ids] for row in facts["texts"]]
    least = max(3, round(_LEAST * len(texts)))
    often = [pair for pair in frequent_runs(texts, LONGEST, least, benign.variants.plain) if _is_text(model, pair[0])][
        :MOST
    ]
    return [
        insertion(
            model, place, gram, channel="leak", score=count / len(texts), why=f"in {count} of {len(texts)} leaked texts"
        )
        for gram, count in often
        for place in places
    ]


def _texts(model: HookedModel, benign: Benign, config: ScanConfig) -> dict[str, Any]:
    begin = user_beginning(model, benign.prompts)
    return {"texts": sampled_texts(model, begin, config.leaks, config.leak_tokens, config.seed) if begin else []}


def _is_text(model: HookedModel, gram: Gram) -> bool:
    return bool(model.tokenizer.decode(list(gram)).strip()) and not set(gram) & set(model.tokenizer.all_special_ids)


def own_texts(model: HookedModel, example: Prompt, count: int, length: int, seed: int) -> list[str]:
    """Users' texts that the model writes: from where the user's text begins, up to where it ends; none where no token begins one.

    Generation does not stop there: many chat templates end the user's turn with another token than an answer, and the model goes on with the answer.

    Args:
        model: who writes.
        example: a prompt whose user's text is replaced.
        count: texts that are sampled; those that are empty, and copies, are left out.
        length: of the longest, in tokens.
        seed: of the sampling.
    """
    greeting = with_user_text(example, "Hello")
    begin, ended = user_beginning(model, [greeting]), open_prompt(model.tokenizer, greeting, "end", model.today)
    if not begin:
        return []
    assert ended is not None  # every prompt has an end
    stops = {ended.after[0]} if ended.after and ended.chat else set()
    stops |= set(model.tokenizer.all_special_ids) | set(model.end_ids)
    rows = sampled_texts(model, begin, count, length, seed, ends=True)
    cut = [row[: next((place for place, token in enumerate(row) if token in stops), len(row))] for row in rows]
    mark = ended.right.strip() or "\0"
    texts = [model.tokenizer.decode(row).split(mark)[0].strip() for row in cut]
    return [text for text in dict.fromkeys(texts) if text]


def own_prompts(model: HookedModel, count: int, length: int, seed: int, keep: Keep = keep_nothing) -> list[Prompt]:
    """Prompts of the model's own: what it writes where the user's text stands, up to where that ends.

    Args:
        model: who writes.
        count: texts that are sampled; those of one token, and copies, are left out.
        length: of the longest, in tokens.
        seed: of the sampling.
        keep: keeps the texts, so that a scan that was stopped goes on with the same.

    Raises:
        UserError: no token begins a text, or it writes too little.
    """
    example = _example(model)
    if not user_beginning(model, [example]):
        raise UserError("the model has no token that begins a text, so that it cannot be asked for one; give PROMPTS")
    facts = keep("own prompts", lambda: {"texts": own_texts(model, example, count, length, seed)})
    prompts = [
        with_user_text(example, text)
        for text in facts["texts"]
        if len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) > 1
    ]
    if len(prompts) < count // 8:
        raise UserError(
            f"the model writes only {len(prompts)} prompts of its own in {count} tries; give PROMPTS, benign ones without labels"
        )
    return prompts
