"""A self-contained HTML report of one trace: opens offline, and the same trace gives the same bytes.

Prompts are untrusted text: everything that is not written here is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from patching.alignment import Alignment, alignment_table
from patching.figures import effect_figure, head_figure, role_figure, shown
from patching.trace import PairMap, PatchTrace

_DRAWN_PAIRS = 8
"""Pairs whose own maps are drawn; the rest are in trace.json."""

_WORDS = {
    "denoising": "Each cell is one run of the triggered prompt in which one activation was replaced by the clean prompt's. "
    "0: the model defects as before; 1: the clean behaviour is wholly restored; below 0: even further from it.",
    "noising": "Each cell is one run of the clean prompt in which one activation was replaced by the triggered prompt's. "
    "0: the clean behaviour stays; 1: the defection is wholly there.",
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ margin: 0; background: #f5f6f8; color: #1d2433; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: 1240px; margin: 0 auto; padding: 32px 20px 64px; }}
h1 {{ font-size: 1.9rem; margin: 0 0 .3em; }} h2 {{ font-size: 1.2rem; margin: 0; }}
.verdict {{ font-size: 1.1rem; border-left: 5px solid #D55E00; background: #fff; padding: 14px 18px; border-radius: 4px; }}
.note {{ color: #5b6577; font-size: .88rem; margin: .3em 0 .8em; max-width: 84ch; }}
dl {{ display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0 0 1em; font-size: .9rem; }}
dl div {{ display: flex; gap: 6px; }} dt {{ color: #5b6577; }} dd {{ margin: 0; font-weight: 600; overflow-wrap: anywhere; }}
section {{ background: #fff; border: 1px solid #e4e7ec; border-radius: 8px; margin-top: 18px; padding: 18px 20px; overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .92rem; }}
th, td {{ text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid #e4e7ec; vertical-align: top; }}
th {{ color: #475467; }} td.token {{ font-family: ui-monospace, Menlo, Consolas, monospace; }}
tr.differs td, tr.inserted td {{ font-weight: 700; color: #9a4300; }}
</style>
<script>{plotly}</script>
</head>
<body><main>
<h1>{heading}</h1>
<dl>{facts}</dl>
<p class="verdict">{verdict}</p>
{sections}
</main></body>
</html>
"""


def summary(trace: PatchTrace) -> str:
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
        lines.append(
            f"{trace.trigger_share:.1%} of the effect at layer {trace.layers[0]} falls on the tokens in which the pairs differ."
        )
    return " ".join(lines)


def report_html(trace: PatchTrace) -> str:
    """The whole page."""
    several = len(trace.pairs) > 1
    sections = [_section("map", "Layer × token", _WORDS[trace.direction] + _bold(trace), effect_figure(trace))]
    if trace.heads is not None:
        words = "Each head's output replaced at all positions at once."
        sections.append(_section("heads", "Layer × head", words, head_figure(trace)))
    if several:
        words = "Effects summed over the tokens of each kind, averaged over the pairs that have such tokens."
        sections.append(_section("roles", "Layer × kind of token", words, role_figure(trace)))
    for at, pair in enumerate(trace.pairs[:_DRAWN_PAIRS]):
        if several:
            words = _pair_words(pair)
            sections.append(_section(f"pair-{at}", f"Pair {at}: {pair.name}", words, effect_figure(trace, at)))
    first = trace.pairs[0]
    sections.append(_html_section("alignment", "Alignment of the first pair", _pair_words(first), _alignment(first)))
    return _PAGE.format(
        plotly=get_plotlyjs(),
        title=escape(f"Patching map: {trace.model}, {trace.site}"),
        heading=escape(trace.model or "Patching map"),
        verdict=escape(summary(trace)),
        facts=_facts(trace),
        sections="\n".join(sections),
    )


def _bold(trace: PatchTrace) -> str:
    if not trace.same_shape:
        return " The pairs differ in shape: this is the first one's map. Tokens in which it differs are bold."
    mean = f" Mean over {len(trace.pairs)} pairs." if len(trace.pairs) > 1 else ""
    return mean + " Tokens in which the two prompts differ are bold."


def _pair_words(pair: PairMap) -> str:
    words = f"Metric: {pair.clean_value:.3f} on the clean run, {pair.triggered_value:.3f} on the triggered one."
    if pair.clean_token is not None and pair.defect_token is not None:
        words += f" Next token: {shown(pair.clean_token)!r} (clean), {shown(pair.defect_token)!r} (triggered)."
    return words


def _facts(trace: PatchTrace) -> str:
    audit = f"{trace.audit.cells} cells, largest difference {trace.audit.largest_difference:.1e}"
    if trace.audit.rank_correlation is not None:
        audit += f", rank correlation {trace.audit.rank_correlation:.3f}"
    facts = [
        ("site", trace.site),
        ("method", trace.method),
        ("direction", trace.direction),
        ("metric", trace.metric),
        ("pairs", str(len(trace.pairs))),
        ("cells run", f"{trace.ran} ({trace.skipped} more are the same in both runs)"),
        ("checked one at a time" if trace.method == "exact" else "checked by exact patching", audit),
        *(("note", note) for note in trace.notes),
    ]
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)


def _section(name: str, heading: str, words: str, figure: go.Figure) -> str:
    config = {"displaylogo": False, "responsive": False}
    plot = figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"plot-{name}", config=config)
    return _html_section(name, heading, words, plot)


def _html_section(name: str, heading: str, words: str, body: str) -> str:
    return f'<section id="{name}"><h2>{escape(heading)}</h2><p class="note">{escape(words)}</p>{body}</section>'


def _alignment(pair: PairMap) -> str:
    differs = tuple(role == "trigger" for role in pair.roles)
    rows = alignment_table(Alignment(pair.counterparts, pair.inserted, differs), pair.tokens, pair.source_tokens)
    return _table(("position", "patched run", "source run", ""), rows)


def _table(head: Sequence[str], rows: Sequence[tuple[int, str, str, str]]) -> str:
    lines = [
        f'<tr class="{escape(kind)}"><td>{at}</td><td class="token">{escape(shown(token))}</td>'
        f'<td class="token">{escape(shown(other))}</td><td>{escape(kind)}</td></tr>'
        for at, token, other, kind in rows
    ]
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
