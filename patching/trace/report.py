"""A self-contained HTML report of one trace: opens offline, and the same trace gives the same bytes.

Prompts are untrusted text: everything that is not written here is escaped.
"""

from __future__ import annotations

import plotly.graph_objects as go

from patching.alignment import Alignment, alignment_table
from patching.trace.plots import effect_figure, head_figure, role_figure, route_figure, shown
from patching.trace.route import HeadRoute
from patching.trace.run import MOST, PairMap, PatchTrace, Share
from triggerlens import html_table, plot, report_page, section

_DRAWN_PAIRS = 8
"""Pairs whose own maps are drawn; the rest are in trace.json."""

_WORDS = {
    "denoising": "Each cell is one run of the triggered prompt in which one activation was replaced by the clean prompt's. "
    "0: the model defects as before; 1: the clean behaviour is wholly restored; below 0: even further from it.",
    "noising": "Each cell is one run of the clean prompt in which one activation was replaced by the triggered prompt's. "
    "0: the clean behaviour stays; 1: the defection is wholly there.",
}


_ROUTE = (
    "Arrows are the heads with the largest effect: from the token to which the head attends most (what it sees; no "
    "intervention), to the token at which replacing its output matters most (exact), as thick as its effect at all tokens at "
    "once. Beside it each head's effect at all tokens at once."
)
_OF_A_HEAD = {"head_out": "output", "q": "queries", "k": "keys", "v": "values", "pattern": "attention pattern"}


def trace_verdict(trace: PatchTrace) -> str:
    """What the trace says, in a sentence or two."""
    best = trace.top(1)
    if not best:
        return f"No patch at {trace.site} has any effect."
    word = "restores" if trace.direction == "denoising" else "brings about"
    what = "the clean behaviour" if trace.direction == "denoising" else "the defection"
    lines = [
        f"The strongest cell is {trace.site}.{best[0].layer} at token {shown(best[0].token)!r} (position {best[0].position}): "
        f"patching it alone {word} {best[0].effect:.0%} of {what}."
    ]
    if trace.trigger_share is not None:
        named = trace.pairs[0].trigger is not None
        tokens = "the tokens of the trigger" if named else "the tokens in which the pairs differ"
        lines.append(_share_words(trace.trigger_share, f"{trace.site}.{trace.layers[0]}", tokens))
    if trace.routes:
        lines.append(f"Carried by {'; '.join(_route_words(trace, route) for route in trace.routes[:3])}.")
    return " ".join(lines)


def _share_words(share: Share, site: str, tokens: str) -> str:
    """How much falls on the trigger, over how many pairs."""
    words = f"{share.mean:.1%} of the effect at {site} falls on {tokens}"
    if share.interval is None:
        return words + "."
    low, high = share.interval
    least, most = share.most_interval
    return (
        f"{words} (mean, bootstrap [{low:.1%}, {high:.1%}]); at least {MOST:.0%} of it in {share.most} of {share.of} pairs "
        f"(Wilson [{least:.1%}, {most:.1%}])."
    )


def _route_words(trace: PatchTrace, route: HeadRoute) -> str:
    words = f"head {route.layer}.{route.head} ({route.effect:+.2f}) to {shown(trace.tokens[route.column_written])!r}"
    if route.reads is None or route.column_read is None:
        return words
    share = route.reads[route.column_read]
    return f"{words} from {shown(trace.tokens[route.column_read])!r} ({share:.0%} of its attention)"


def trace_page(trace: PatchTrace) -> str:
    """The whole page."""
    several = len(trace.pairs) > 1
    sections = []
    if trace.routes:
        sections.append(_section("route", "The trigger's route", _ROUTE, route_figure(trace)))
    sections.append(_section("map", "Layer × token", _WORDS[trace.direction] + _bold(trace), effect_figure(trace)))
    if trace.heads is not None:
        words = f"Each head's {_OF_A_HEAD[trace.head_site or 'head_out']} replaced at all positions at once."
        sections.append(_section("heads", "Layer × head", words, head_figure(trace)))
    if several:
        words = "Effects summed over the tokens of each kind, averaged over the pairs that have such tokens."
        sections.append(_section("roles", "Layer × kind of token", words, role_figure(trace)))
    for at, pair in enumerate(trace.pairs[:_DRAWN_PAIRS]):
        if several:
            words = _pair_words(pair)
            sections.append(_section(f"pair-{at}", f"Pair {at}: {pair.name}", words, effect_figure(trace, at)))
    first = trace.pairs[0]
    sections.append(section("alignment", "Alignment of the first pair", _pair_words(first), _alignment(first)))
    return report_page(
        f"Patching map: {trace.model}, {trace.site}",
        heading=trace.model or "Patching map",
        verdict=trace_verdict(trace),
        facts=_facts(trace),
        sections=sections,
        width=1240,
    )


def _bold(trace: PatchTrace) -> str:
    if not trace.same_shape:
        return (
            " The pairs differ in shape: columns are places relative to the trigger and to the end, and the effect is summed "
            f"over the tokens of each, then averaged over {len(trace.pairs)} pairs. The trigger's own are bold."
        )
    mean = f" Mean over {len(trace.pairs)} pairs." if len(trace.pairs) > 1 else ""
    return mean + " Tokens in which the two prompts differ are bold."


def _pair_words(pair: PairMap) -> str:
    words = f"Metric: {pair.clean_value:.3f} on the clean run, {pair.triggered_value:.3f} on the triggered one."
    if pair.clean_token is not None and pair.defect_token is not None:
        words += f" Next token: {shown(pair.clean_token)!r} (clean), {shown(pair.defect_token)!r} (triggered)."
    return words


def _facts(trace: PatchTrace) -> list[tuple[str, str]]:
    audit = f"{trace.audit.cells} cells, largest difference {trace.audit.largest_difference:.1e}"
    if trace.audit.rank_correlation is not None:
        audit += f", rank correlation {trace.audit.rank_correlation:.3f}"
    if trace.audit.worst:
        audit += f"; worst miss: {trace.audit.worst}"
    return [
        ("site", trace.site),
        ("method", trace.method),
        ("direction", trace.direction),
        ("metric", trace.metric),
        ("pairs", str(len(trace.pairs))),
        ("cells run", f"{trace.ran} ({trace.skipped} more are the same in both runs)"),
        ("checked one at a time" if trace.method == "exact" else "checked by exact patching", audit),
        *(("note", note) for note in trace.notes),
    ]


def _section(name: str, heading: str, words: str, figure: go.Figure) -> str:
    return section(name, heading, words, plot(figure, name, responsive=False))


def _alignment(pair: PairMap) -> str:
    differs = tuple(role == "trigger" for role in pair.roles)
    rows = alignment_table(Alignment(pair.counterparts, pair.inserted, differs), pair.tokens, pair.source_tokens)
    return html_table(
        ("position", "patched run", "source run", ""),
        [(str(at), shown(token), shown(other), kind) for at, token, other, kind in rows],
        strong=[kind in ("differs", "inserted") for *_, kind in rows],
        tokens=(1, 2),
    )
