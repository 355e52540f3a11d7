"""A saved probe on new prompts: score, verdict at the frozen threshold, and the score of every token.

The score of a token is what the probe says of the residual stream at that token. It shows where in the prompt the
probe's evidence stands; it is no proof that the model uses what stands there (activation patching is).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hooked import ExtractionSpec, HookedModel, LiveActivations, Prompt, token_texts
from probes.poolings import new_pooling
from probes.probe import LinearProbe
from probes.result import ProbeResult
from triggerlens import UserError


@dataclass(frozen=True, slots=True)
class PromptScore:
    """What a probe says of one prompt."""

    index: int
    """Which prompt, as counted in the input."""
    where: str
    """`file:line` of the prompt; empty for one made in memory."""
    score: float
    """In units of the probe's decision function; fires strictly above the threshold."""
    fires: bool
    """Whether the score is above the frozen threshold."""
    tokens: tuple[str, ...]
    """Text of each token that the probe may read."""
    token_scores: tuple[float, ...]
    """One for each token: what the probe says of it alone."""

    def carriers(self, most: int = 5) -> list[tuple[str, float]]:
        """The tokens with the highest scores, highest first."""
        order = sorted(range(len(self.tokens)), key=lambda position: -self.token_scores[position])
        return [(self.tokens[position], self.token_scores[position]) for position in order[:most]]


@dataclass(frozen=True, slots=True)
class Example:
    """A test prompt worth showing."""

    kind: str
    """What kind of test prompt, for people."""
    scored: PromptScore
    """The prompt with its scores."""


def score_prompts(
    model: HookedModel,
    probe: LinearProbe,
    prompts: Sequence[Prompt],
    indices: Sequence[int] | None = None,
    *,
    token_budget: int | None = None,
) -> Iterator[PromptScore]:
    """Score prompts with a probe, in no particular order.

    Args:
        model: the model, which need not be the one that the probe was trained on.
        probe: a trained probe.
        prompts: labels are not needed; a probe of answers reads their `response`.
        indices: which of the prompts; all where None.
        token_budget: tokens in one forward pass, padding included.

    Raises:
        UserError: the model's width or layers are not the probe's, or a prompt or activation is unusable.
    """
    if model.info.d_model != probe.d_model:
        raise UserError(
            f"the probe has width {probe.d_model} (trained on {probe.model or 'an unnamed model'}), but {model.info.name} "
            f"has width {model.info.d_model}; use the model that it was trained on, or train a probe on this one"
        )
    wanted = list(range(len(prompts)) if indices is None else indices)
    chosen = [prompts[index] for index in wanted]
    tokenized = model.tokenize(chosen, answers=probe.read != "prompt")
    spec = ExtractionSpec((probe.site,), "every", read=probe.read)
    spans = _span_scores(model, probe, chosen, token_budget)
    for position, rows in LiveActivations(model, tokenized, spec, token_budget).by_prompt(range(len(wanted))):
        read, index = spec.tokens_of(tokenized[position]), wanted[position]
        tokens = token_texts(model.tokenizer, tokenized[position])[read.start : read.stop]
        scored = score_tokens(probe, rows[:, 0], tokens, index=index, where=prompts[index].where)
        if position in spans:
            score = spans[position]
            scored = replace(scored, score=score, fires=score > probe.threshold)
        yield scored


def _span_scores(
    model: HookedModel, probe: LinearProbe, prompts: Sequence[Prompt], token_budget: int | None
) -> dict[int, float]:
    """The scores of the spans of a probe that reads those; none of another probe."""
    if not probe.aggregation.startswith("span:"):
        return {}
    spec = ExtractionSpec((probe.site,), probe.aggregation, read=probe.read)
    live = LiveActivations(model, prompts, spec, token_budget)
    return {index: float(probe(rows[0, 0])) for index, rows in live.by_prompt(range(len(prompts)))}


def score_tokens(
    probe: LinearProbe,
    activations: Float[Tensor, "token d_model"],
    tokens: Sequence[str],
    *,
    index: int = 0,
    where: str = "",
) -> PromptScore:
    """Score one prompt from its activations at the probe's site.

    Args:
        probe: a trained probe.
        activations: of every token.
        tokens: the text of each token.
        index: which prompt, as counted in the input.
        where: file and line.
    """
    token_scores = probe(activations)
    score = float(new_pooling(probe.aggregation).reduce(probe.channels(activations)))
    return PromptScore(
        index=index,
        where=where,
        score=score,
        fires=score > probe.threshold,
        tokens=tuple(tokens),
        token_scores=tuple(token_scores.tolist()),
    )


def example_rows(result: ProbeResult, each: int = 2) -> list[tuple[str, int]]:
    """Test prompts worth showing: of each kind the hardest (nearest the wrong side), then towards the median.

    Returns:
        Kind and index of each.
    """
    chosen = []
    for kind in result.kinds():
        members = np.flatnonzero(kind.members)
        toward = 1 if kind.positive else -1
        order = members[np.lexsort((members, toward * result.test.scores[members]))]
        places = np.unique(np.linspace(0, len(order) // 2, each).astype(int))
        chosen += [(kind.name, index) for index in result.test.rows[order[places]].tolist()]
    return chosen


def example_prompts(model: HookedModel, result: ProbeResult, prompts: Sequence[Prompt]) -> list[Example]:
    """Test prompts worth showing in the report, with the score of each token."""
    rows = example_rows(result)
    scored = {score.index: score for score in score_prompts(model, result.probe, prompts, [row for _, row in rows])}
    return [Example(kind, scored[row]) for kind, row in rows]
