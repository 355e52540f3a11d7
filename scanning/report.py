"""A scan as a page that opens offline."""

from __future__ import annotations

from collections.abc import Sequence

from scanning import plots
from scanning.result import ScanResult, SweptFacts
from scanning.statement import scan_statement
from scanning.verdict import HEAD, candidate_rows, scan_verdict
from triggerlens import render_page

_ROWS = 24


def scan_page(result: ScanResult, statement: Sequence[str] = ()) -> str:
    """The whole page, with this statement, or what `scan_statement` says; the same of both gives the same bytes."""
    return render_page(
        __file__,
        "scan.html.jinja",
        title=f"Trigger scan: {result.model}",
        heading=result.model,
        verdict=scan_verdict(result),
        facts=[
            ("weights", f"{result.weights_sha256[:16]}…"),
            ("computed in", result.dtype),
            ("channels", ", ".join(result.channels)),
            ("prompts", f"{result.search_prompts} searched on, {result.judge_prompts} judged on"),
            ("sweep", _sweep(result.swept)),
            ("read whole as a check", f"{result.checked} rows, largest difference {result.largest_difference:.1e}"),
            *(("note", note) for note in result.notes),
        ],
        result=result,
        plots=plots,
        statement=statement or scan_statement(result),
        head=HEAD,
        rows=candidate_rows(result, _ROWS),
        strong=[judged.found for judged in result.judged[:_ROWS]],
        coverage=_coverage(result),
    )


def _sweep(swept: Sequence[SweptFacts]) -> str:
    """What was swept, and not what was planned: the channel may be left out, and few prompts have a system message."""
    tokens = "; ".join(dict.fromkeys(f"{own.tokens:,} of {own.of:,} tokens" for own in swept))
    places = ", ".join(f"{own.place} of {own.prompts} prompts" for own in swept)
    return f"{tokens} at {places}" if swept else "none"


def _coverage(result: ScanResult) -> list[tuple[str, str, str]]:
    """Channel, what was tried, and to what extent."""
    rows = [
        (
            f"sweep, {swept.place}",
            f"{swept.tokens:,} of {swept.of:,} tokens",
            f"{swept.prompts} prompts, {swept.steps} steps; {'every token' if swept.exhaustive else 'a sample'}",
        )
        for swept in result.swept
    ]
    return rows + [(name, f"{count:,} candidates", "") for name, count in result.covered]
