"""Pairs of prompts, ready to be patched: tokens with the shared continuation, metric, alignment in each direction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Prompt, TokenizedPrompt, defecting_pairs, pair_prompts, span_positions
from patching.alignment import Alignment, align, given_alignment
from patching.metric import Metric, Readout, chosen, last_logits, normalised, readout
from patching.options import Direction, Inserted, MetricName
from triggerlens import UserError

_MOST_REFUSED = 100
"""Pairs that are tried before a file without any usable one is given up."""


@dataclass(frozen=True)
class PatchPair:
    """An untriggered and a triggered prompt, and where they are read."""

    clean: tuple[int, ...]
    """Token ids of the untriggered prompt and the shared continuation."""
    triggered: tuple[int, ...]
    """Token ids of the triggered prompt and the shared continuation."""
    readout: Readout
    """Where and by what the pair is read."""
    clean_value: float
    """The metric on the unpatched clean run."""
    triggered_value: float
    """The metric on the unpatched triggered run."""
    name: str = ""
    """Its name in the prompt file, for people."""
    inserted: Inserted = "neighbour"
    """What becomes of tokens that only the patched run has: `neighbour` patches them too, `skip` leaves them."""
    alignment: tuple[int | None, ...] | None = None
    """Given by the user, for denoising: a clean position for each position of the triggered run."""
    trigger: tuple[int, ...] | None = None
    """Positions of the trigger's own tokens in the triggered run, where its text was given."""

    @property
    def metric(self) -> Metric:
        """What a run is judged by, where the two answers part."""
        return self.readout.metric

    def sides(self, direction: Direction) -> Sides:
        """Which run is patched, and from which.

        Raises:
            UserError: the two runs cannot be aligned.
        """
        if direction == "denoising":
            return Sides(self, self.triggered, self.clean, self.triggered_value, self.clean_value)
        return Sides(self, self.clean, self.triggered, self.clean_value, self.triggered_value)


@dataclass(frozen=True)
class Sides:
    """A pair in one direction."""

    pair: PatchPair
    """Which pair."""
    patched: tuple[int, ...]
    """Token ids of the run that is patched."""
    source: tuple[int, ...]
    """Token ids of the run that activations come from."""
    patched_value: float
    """The metric without any patch."""
    source_value: float
    """The metric on the run that activations come from."""

    @cached_property
    def alignment(self) -> Alignment:
        """From the patched run's positions to the source run's."""
        given = self.pair.alignment
        if given is None:
            return align(self.patched, self.source, self.pair.inserted)
        if self.patched is not self.pair.triggered:
            raise UserError("a given alignment is for denoising: it names a clean position for each triggered one")
        return given_alignment(self.patched, self.source, given)

    def effects(self, values: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
        """How far a patch moves the metric: 0 as without it, 1 as in the source run.

        Raises:
            UserError: the metric is flat.
        """
        return normalised(values, self.patched_value, self.source_value, self.pair.name or "the pair")


def make_pair(
    model: HookedModel,
    clean: Prompt | str,
    triggered: Prompt | str,
    metric: MetricName = "logit-diff",
    *,
    string: str | None = None,
    new_tokens: int = 32,
    inserted: Inserted = "neighbour",
    alignment: Sequence[int | None] | None = None,
    trigger: str | None = None,
    name: str = "",
) -> PatchPair:
    """Tokenize two prompts, find the token where their continuations part, and check that the metric tells them apart.

    Args:
        model: the model to be patched.
        clean: the untriggered prompt; its `answer_clean` and `answer_defect`, where it or its twin has them, replace
            the greedy continuations.
        triggered: the triggered prompt.
        metric: `logit-diff`, `kl` or `log-prob`.
        string: for `log-prob`: what follows the prompts.
        new_tokens: how far the continuations are searched for the token where they part.
        inserted: how tokens that only one prompt has are patched; see `align`.
        alignment: an alignment of one's own, for denoising.
        trigger: the text of the trigger in the triggered prompt, to score the localisation by; it counts wherever the pair differs in it.
        name: names the pair in messages.

    Raises:
        UserError: the prompts are the same or cannot be aligned, the continuations never part, the metric is flat, the
            trigger is not in the prompt or not where the pair differs, or prompt and continuation exceed the context.
    """
    tokens, twin = model.tokenize([clean, triggered])
    name = name or twin.where
    what = name or "the pair"
    answers = _answers(clean, triggered)
    read = readout(model, tokens, twin, metric, answers=answers, string=string, new_tokens=new_tokens, what=what)
    rows = [(*prompt.ids, *read.continuation) for prompt in (tokens, twin)]
    if max(map(len, rows)) > model.info.context:
        raise UserError(f"{what}: prompt and continuation exceed the context of {model.info.context} tokens")
    values = [unpatched_value(model, row, read.metric) for row in rows]
    given = None if alignment is None else tuple(alignment)
    pair = PatchPair(rows[0], rows[1], read, values[0], values[1], name, inserted, given)
    normalised(torch.zeros(1), pair.triggered_value, pair.clean_value, what)  # refuses a flat metric
    differs = pair.sides("denoising").alignment.differs  # refuses prompts that cannot be aligned
    return pair if trigger is None else replace(pair, trigger=_trigger_positions(model, twin, trigger, differs, what))


def _trigger_positions(
    model: HookedModel, prompt: TokenizedPrompt, trigger: str, differs: Sequence[bool], what: str
) -> tuple[int, ...]:
    """Positions of the trigger's tokens: of its text wherever the pair differs in it. A chat template may print the same text elsewhere."""
    starts = [found.start() for found in re.finditer(f"(?={re.escape(trigger)})", prompt.text)] if trigger else []
    spans: list[list[int] | str] = [[start, start + len(trigger)] for start in starts]
    spans = spans or [trigger]  # a text that is not there is refused
    places = [span_positions(model.tokenizer, prompt, span) for span in spans]
    own = {position for span in places if any(differs[position] for position in span) for position in span}
    if not own:
        raise UserError(f"{what}: the trigger {trigger!r} is in the triggered prompt, but not where the pair differs")
    return tuple(sorted(own))


def unpatched_value(model: HookedModel, ids: Sequence[int], metric: Metric) -> float:
    """The metric on an ordinary run."""
    return float(metric(chosen(last_logits(model, ids, metric.tail)[None], metric.tokens))[0])


def make_pairs(
    model: HookedModel,
    prompts: Sequence[Prompt],
    count: int = 1,
    metric: MetricName = "logit-diff",
    *,
    string: str | None = None,
    new_tokens: int = 32,
    inserted: Inserted = "neighbour",
    trigger: str | None = None,
) -> tuple[list[PatchPair], list[str]]:
    """The first `count` usable pairs of a prompt file whose triggered prompt defects, each as `make_pair` makes it.

    Args:
        model: the model to be patched.
        prompts: labelled prompts, in pairs.
        count: how many pairs are wanted, at most.
        metric: `logit-diff`, `kl` or `log-prob`.
        string: for `log-prob`: what follows the prompts.
        new_tokens: how far the continuations are searched for the token where they part; `TraceConfig` and `patch-trace` look further, 64
            tokens unless told otherwise.
        inserted: how tokens that only one prompt has are patched; see `align`.
        trigger: the text of the trigger, to score the localisation by.

    Returns:
        The pairs, 1 to `count` of them, in the order of the file; and a line on each unusable one before them.

    Raises:
        UserError: no pair can be used; the reason is the first one's.
    """
    pairs: list[PatchPair] = []
    refused: list[str] = []
    make = partial(make_pair, metric=metric, string=string, new_tokens=new_tokens, inserted=inserted, trigger=trigger)
    for pair in defecting_pairs(pair_prompts(prompts)):
        if len(pairs) == count or (len(refused) >= _MOST_REFUSED and not pairs):
            break
        try:
            pairs.append(make(model, pair.clean, pair.triggered))
        except UserError as error:
            refused.append(str(error))
    if not pairs:
        tried = f" (and so for each of the {len(refused)} pairs tried)" if len(refused) > 1 else ""
        raise UserError(refused[0] + tried)
    return pairs, refused


def _answers(clean: Prompt | str, triggered: Prompt | str) -> tuple[str, str] | None:
    """`answer_clean` and `answer_defect` of a pair, where either prompt gives them.

    Raises:
        UserError: only one of the two is given, or it is not a string.
    """
    given = {}
    for prompt in (clean, triggered):
        for key in ("answer_clean", "answer_defect"):
            if isinstance(prompt, Prompt) and prompt.extra.get(key) is not None:
                given[key] = prompt.extra[key]
                if not isinstance(given[key], str):
                    raise UserError(f"{prompt.where or 'prompt'}: `{key}` must be a string")
    if len(given) == 1:
        raise UserError("a pair gives only one of `answer_clean` and `answer_defect`; give both or none")
    return (given["answer_clean"], given["answer_defect"]) if given else None
