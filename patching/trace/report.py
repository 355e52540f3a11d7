"""A trace as a page that opens offline."""

from __future__ import annotations

from patching.alignment import Alignment, alignment_table
from patching.trace import plots
from patching.trace.result import PairMap, PatchTrace
from patching.trace.verdict import audit_words, shown, trace_verdict
from triggerlens import render_page

_DRAWN_PAIRS = 8
"""Pairs whose own maps are drawn; the rest are in trace.json."""


def trace_page(trace: PatchTrace) -> str:
    """The whole page; the same trace gives the same bytes."""
    rows = _alignment(trace.pairs[0])
    return render_page(
        __file__,
        "trace.html.jinja",
        title=f"Patching map: {trace.model}, {trace.site}",
        heading=trace.model or "Patching map",
        verdict=trace_verdict(trace),
        facts=_facts(trace),
        width=1240,
        trace=trace,
        plots=plots,
        shown=shown,
        drawn_pairs=_DRAWN_PAIRS,
        alignment=[(str(position), shown(token), shown(other), kind) for position, token, other, kind in rows],
        strong=[kind in ("differs", "inserted") for *_, kind in rows],
    )


def _facts(trace: PatchTrace) -> list[tuple[str, str]]:
    return [
        ("site", trace.site),
        ("method", trace.method),
        ("direction", trace.direction),
        ("metric", trace.metric),
        ("pairs", str(len(trace.pairs))),
        ("cells run", f"{trace.ran} ({trace.skipped} more are the same in both runs)"),
        (
            "checked one at a time" if trace.method == "exact" else "checked by exact patching",
            f"{trace.audit.cells} cells, {audit_words(trace)}",
        ),
        *(("note", note) for note in trace.notes),
    ]


def _alignment(pair: PairMap) -> list[tuple[int, str, str, str]]:
    differs = tuple(role == "trigger" for role in pair.roles)
    return alignment_table(Alignment(pair.counterparts, pair.inserted, differs), pair.tokens, pair.source_tokens)
