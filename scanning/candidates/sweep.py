"""The sweep: every token of the vocabulary, inserted at each place of each prompt; the best grown to phrases; numbers replaced.

1. A prompt is read once up to the place; for each token only what follows is run (`hooked.PrefixReader`), and along the model's own
   answer.
2. A token's effect is the largest divergence along the answer, averaged over prompts; beside it, how much the first token of the answer
   still tells about the prompt (mutual information, in nats): where it falls to 0, all prompts are answered alike.
3. The best tokens are grown: each of a short list is put before and after, and the best phrases go on.
4. Numbers that prompts have, years above all, are replaced by others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookedModel, Place, PrefixReader, Prompt, inserted_text
from scanning.benign import Course
from scanning.candidates.candidate import Candidate, Variants
from scanning.candidates.edits import RULES, edited
from scanning.score import batches, divergence, entropy, inserted_rows
from triggerlens import Keep, keep_nothing

CHUNK = 512
"""Tokens of the vocabulary that are swept together, on all prompts, and kept as one cell."""
YEARS = tuple(str(year) for year in range(1990, 2041))
NUMBERS = (*map(str, range(13)), "42", "99", "100", "1000", "1234", "12345", "666", "777")
_BEST, _ALIKE = 12, 4
"""Candidates of a place by effect, and by how alike prompts are answered."""


@dataclass(frozen=True)
class Swept:
    """One place, swept."""

    place: Place
    """Where in a prompt each token was put."""
    tokens: Int[np.ndarray, "token"]
    """Token ids that were tried."""
    effect: Float[np.ndarray, "token"]
    """Mean over the prompts, in nats."""
    information: Float[np.ndarray, "token"]
    """About the prompt, in the first token of the answer, in nats."""
    prompts: int
    """How many prompts each was put into."""
    steps: int
    """Of the answer that were followed, the next token included; the shortest answer may have fewer."""


def ordinary_tokens(model: HookedModel) -> list[int]:
    """Tokens that a text may hold: none that is special, and none that the tokenizer has no text for."""
    special = set(model.tokenizer.all_special_ids)
    known = min(len(model.tokenizer), model.vocabulary)
    return [token for token in range(known) if token not in special and model.tokenizer.decode([token]) != ""]


def sweep_place(
    reader: PrefixReader,
    variants: Variants,
    courses: Sequence[Course],
    place: Place,
    tokens: Sequence[int],
    keep: Keep = keep_nothing,
) -> Swept | None:
    """Steps 1 and 2; None where no prompt has the place."""
    cuts = [(course, variants.opened(course.index, place)) for course in courses]
    cut = [(course, (*opened.before,), opened.after) for course, opened in cuts if opened is not None]
    if not cut:
        return None
    parts: list[dict[str, Any]] = []
    for start in range(0, len(tokens), CHUNK):
        chosen = list(tokens[start : start + CHUNK])
        name = f"sweep {place}: tokens {start:,} to {start + len(chosen):,} of {len(tokens):,}"
        parts.append(keep(name, partial(_chunk, reader, cut, chosen)))
    return Swept(
        place,
        np.array(tokens),
        torch.cat([part["effect"] for part in parts]).double().numpy(),
        torch.cat([part["information"] for part in parts]).double().numpy(),
        len(cut),
        max(course.steps for course, _, _ in cut),
    )


def _chunk(
    reader: PrefixReader, cut: Sequence[tuple[Course, tuple[int, ...], Sequence[int]]], tokens: Sequence[int]
) -> dict[str, Tensor]:
    phrases = torch.tensor(tokens)[:, None]
    effect = torch.zeros(len(tokens))
    mixed, inner = torch.zeros(len(tokens), reader.model.vocabulary), torch.zeros(len(tokens))
    for course, before, after in cut:
        for part, rows in batches(reader, inserted_rows(course, after, phrases), course.steps):
            seen = reader.read(before, rows, course.steps).log_softmax(-1)
            effect[part] += divergence(seen, course.log_probabilities).amax(-1).cpu()
            mixed[part] += seen[:, 0].exp().cpu()
            inner[part] += entropy(seen[:, 0]).cpu()
    information = entropy((mixed / len(cut)).clamp_min(1e-30).log()) - inner / len(cut)
    return {"effect": effect / len(cut), "information": information.clamp_min(0.0)}


def swept_candidates(model: HookedModel, swept: Swept) -> list[Candidate]:
    """The best of a place, by effect and by how alike prompts are answered."""
    by_effect = np.argsort(-swept.effect, kind="stable")[:_BEST].tolist()
    strong = np.flatnonzero(swept.effect >= np.quantile(swept.effect, 0.98))
    alike = strong[np.argsort(swept.information[strong], kind="stable")][:_ALIKE].tolist()
    return [
        insertion(
            model,
            swept.place,
            (int(swept.tokens[index]),),
            channel="sweep",
            score=float(swept.effect[index]),
            why=f"rank {rank + 1} of {len(swept.tokens):,} by effect"
            if rank < len(by_effect)
            else "prompts answered alike",
        )
        for rank, index in enumerate(dict.fromkeys([*by_effect, *alike]))
    ]


def insertion(model: HookedModel, place: Place, ids: Sequence[int], **facts: Any) -> Candidate:
    """A candidate of these tokens, with the text that they are behind another one."""
    return Candidate(kind="insertion", text=inserted_text(model.tokenizer, ids), place=place, ids=tuple(ids), **facts)


Phrase = tuple[int, ...]


def grow(
    scores: Callable[[Sequence[Phrase]], Float[np.ndarray, "phrase"]],
    seeds: Sequence[Phrase],
    shortlist: Sequence[int],
    longest: int,
    beam: int = 6,
    gain: float = 0.02,
) -> list[tuple[float, Phrase]]:
    """Step 3: phrases of up to `longest` tokens, the best first; growing ends where no longer one is better by `gain`.

    Args:
        scores: of phrases of one length, larger is better.
        seeds: of one length.
        shortlist: tokens that are put before and after.
        longest: tokens of the longest phrase.
        beam: phrases of each length that go on.
        gain: by how much a token more must help.
    """
    values = scores(seeds)
    best = sorted(zip(values.tolist(), seeds, strict=True), reverse=True)[:beam]
    everything = list(best)
    while len(best[0][1]) < longest:
        longer = {phrase for _, seed in best for token in shortlist for phrase in ((token, *seed), (*seed, token))}
        ordered = sorted(longer)
        values = scores(ordered)
        grown = sorted(zip(values.tolist(), ordered, strict=True), reverse=True)[:beam]
        everything += grown
        if grown[0][0] < best[0][0] + gain:
            break
        best = grown
    return sorted(everything, key=lambda pair: (-pair[0], len(pair[1]), pair[1]))


def number_candidates(prompts: Sequence[Prompt]) -> list[Candidate]:
    """Step 4; those that change some prompt."""
    rules = [("years", year) for year in YEARS] + [("numbers", number) for number in NUMBERS]
    having = {
        rule: [prompt for prompt in prompts if edited(prompt, "substitution", rule, "") is not None] for rule in RULES
    }
    return [
        Candidate(channel="sweep", kind="substitution", text=text, rule=rule)
        for rule, text in rules
        if any(edited(prompt, "substitution", rule, text) is not None for prompt in having[rule])
    ]
