"""A saved probe on new prompts: score, verdict at the frozen threshold, and the score of every token.

The score of a token is what the probe says of the residual stream at that token. It shows where in the prompt the
probe's evidence stands; it is no proof that the model uses what stands there (activation patching is).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hooked import ExtractionSpec, HookedModel, LiveActivations, Prompt, token_texts
from probes.aggregation import aggregate
from probes.probe import LinearProbe
from triggerlens import UserError


@dataclass(frozen=True, slots=True)
class PromptScore:
    """What a probe says of one prompt."""

    index: int
    """Which prompt, as counted in the input."""
    where: str
    score: float
    """In units of the probe's decision function; fires strictly above the threshold."""
    fires: bool
    tokens: tuple[str, ...]
    token_scores: tuple[float, ...]
    """One for each token."""

    def carriers(self, most: int = 5) -> list[tuple[str, float]]:
        """The tokens with the highest scores, highest first."""
        order = sorted(range(len(self.tokens)), key=lambda position: -self.token_scores[position])
        return [(self.tokens[position], self.token_scores[position]) for position in order[:most]]


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
        indices: which of the prompts; all where None.

    Raises:
        UserError: the model's width or layers are not the probe's, or a prompt or activation is unusable.
    """
    if model.info.d_model != probe.d_model:
        raise UserError(
            f"the probe has width {probe.d_model} (trained on {probe.model or 'an unnamed model'}), but {model.info.name} "
            f"has width {model.info.d_model}; use the model that it was trained on, or train a probe on this one"
        )
    live = LiveActivations(model, prompts, ExtractionSpec((probe.site,), "every"), token_budget)
    for index, rows in live.by_prompt(range(len(prompts)) if indices is None else indices):
        token_scores = probe(rows[:, 0])
        score = float(aggregate(token_scores, [len(token_scores)], probe.aggregation)[0])
        yield PromptScore(
            index=index,
            where=prompts[index].where,
            score=score,
            fires=score > probe.threshold,
            tokens=tuple(token_texts(model.tokenizer, model.tokenize([prompts[index]])[0])),
            token_scores=tuple(token_scores.tolist()),
        )
