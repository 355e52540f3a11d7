"""What a trace says, in sentences."""

from __future__ import annotations

from patching.options import MetricName
from patching.trace.result import MOST, PatchTrace, Top, TriggerShare
from patching.trace.route import HeadRoute
from triggerlens import count_text, few_text, interval_text

_METRICS: dict[MetricName, str] = {
    "logit-diff": "the logit difference where the answers part",
    "kl": "the next token's distribution where the answers part",
    "log-prob": "the string's log-probability",
}
_SAID_HEADS = 3
"""Heads of the route that the verdict names."""


def trace_verdict(trace: PatchTrace) -> str:
    """What the trace says, in a sentence or two."""
    best = trace.top(1)
    beyond = _beyond(trace, best[0].pairs if best else len(trace.pairs))
    if not best:
        return " ".join([f"No patch at {trace.site} has any effect.", *beyond])
    other = "clean" if trace.direction == "denoising" else "triggered"
    behind = f" behind {trace.site}.0" if trace.first_row else ""
    lines = [
        f"The strongest cell{behind} is {trace.site}.{best[0].layer} at {_place(trace, best[0])}: patching it alone moves {_METRICS[trace.metric]} "
        f"{best[0].effect:.0%} of the way to the {other} run's."
    ]
    if trace.trigger_share is not None:
        named = trace.pairs[0].trigger is not None
        tokens = "the tokens of the trigger" if named else "the tokens in which the pairs differ"
        lines.append(_share_words(trace.trigger_share, f"{trace.site}.{trace.layers[trace.first_row]}", tokens))
    if trace.routes:
        lines.append(f"Carried by {'; '.join(_route_words(trace, route) for route in trace.routes[:_SAID_HEADS])}.")
    return " ".join([*lines, *_differing(trace), *beyond])


def _place(trace: PatchTrace, top: Top) -> str:
    """A position, or, of pairs that differ in shape, a landmark, which may be several positions of each, and which not every pair need have."""
    if trace.same_shape:
        return f"token {shown(top.token)!r} (position {top.position})"
    return f"{top.token!r}, a place that {top.pairs} of {len(trace.pairs)} pairs have (the sum over its tokens)"


def _differing(trace: PatchTrace) -> list[str]:
    """What a map of pairs that differ by more than a trigger does not show."""
    if trace.difference is None or trace.difference.minimal:
        return []
    return [f"But {trace.difference.words}: the map shows where two prompts differ, and not where a trigger acts."]


def _beyond(trace: PatchTrace, pairs: int) -> list[str]:
    """How far what was seen in so few pairs can be taken to hold."""
    few = few_text((pairs, "pairs" if pairs == len(trace.pairs) else "pairs with this place"))
    return [f"Whether other prompts do the same cannot be told: {few}."] if few else []


def _share_words(share: TriggerShare, site: str, tokens: str) -> str:
    """How much falls on the trigger, over how many pairs."""
    words = f"{share.mean.value:.1%} of the effect at {site} falls on {tokens}"
    if share.mean.n == 1:
        return words + "."
    return (
        f"{words} (mean, 95% {interval_text(share.mean, '.1%')}); at least {MOST:.0%} of it in "
        f"{count_text(share.most)} pairs (Wilson {interval_text(share.most, '.1%')})."
    )


def _route_words(trace: PatchTrace, route: HeadRoute) -> str:
    words = f"head {route.layer}.{route.head} ({route.effect:+.2f}) to {shown(trace.tokens[route.column_written])!r}"
    if route.reads is None or route.column_read is None:
        return words
    share = route.reads[route.column_read]
    return f"{words} from {shown(trace.tokens[route.column_read])!r} ({share:.0%} of its attention)"


def audit_words(trace: PatchTrace) -> str:
    """How far the cells that were checked are off."""
    audit = trace.audit
    rank = "" if audit.rank_correlation is None else f", rank correlation {audit.rank_correlation:.3f}"
    worst = f"; worst miss: {audit.worst}" if audit.worst else ""
    return f"largest difference {audit.largest_difference:.1e}{rank}{worst}"


def shown(token: str) -> str:
    """A token's text with its blanks made visible."""
    return token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "·") or "∅"
