"""A self-contained HTML report of one probe: opens offline, and the same result gives the same bytes.

What each number means, and what it does not, stands in `templates/probe.html.jinja`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from probes import plots
from probes.answers.plots import tokens_seen
from probes.result import Control, ProbeResult
from probes.score import Example
from probes.verdict import probe_verdict
from triggerlens import Estimate, count_text, interval_text, render_page, value_text

Row = tuple[str, ...]


def probe_page(result: ProbeResult, examples: Sequence[Example] = ()) -> str:
    """The whole page.

    Args:
        result: what training found.
        examples: prompts to show token by token, as `example_prompts` gives them; none leaves the section out.
    """
    probe = result.probe
    distances = [np.abs(np.array(example.scored.token_scores) - probe.threshold) for example in examples]
    return render_page(
        __file__,
        "probe.html.jinja",
        title=f"Probe report: {probe.model or 'model'}, {result.best.site}",
        heading=probe.model or "Linear probe",
        verdict=probe_verdict(result),
        facts=_facts(result),
        cards=_cards(result),
        result=result,
        plots=plots,
        seen=_seen(result),
        watch_rows=_watching(result),
        control_rows=[(name, _control_cells(control)) for name, control in result.controls.items()],
        dataset_rows=_datasets(result),
        note=str(probe.calibration.get("note", "")),
        examples=[(example.scored, _caption(example, probe.threshold)) for example in examples],
        reach=(float(np.quantile(np.concatenate(distances), 0.95)) or 1.0) if examples else 1.0,
    )


def _facts(result: ProbeResult) -> list[tuple[str, str]]:
    probe = result.probe
    return [
        ("model", probe.model or "(unnamed)"),
        ("site", probe.site),
        ("position", probe.aggregation if probe.read == "prompt" else f"{probe.aggregation} of the {probe.read}"),
        ("probe", probe.method),
        ("positive label", probe.label),
        ("backend", result.backend or "(none)"),
        ("test prompts", f"{result.n_positive} positive, {result.n_negative} negative"),
        ("layer chosen on", f"{result.split_sizes['validation']} validation prompts"),
    ]


def _cards(result: ProbeResult) -> list[Row]:
    worst, rate = result.worst
    auroc = result.best.auroc
    cards: list[Row] = [
        ("Test AUROC", value_text(auroc), interval_text(auroc), f"{result.best.site}, chosen on validation")
    ]
    for point in result.tpr:
        cards.append((f"TPR at {point.fpr:.1%} FPR", *_percent(point.tpr), point.note or "on test, never interpolated"))
    cards.append(("Detected at the frozen threshold", *_percent(result.detected), count_text(result.detected)))
    cards.append(("Worst false-positive rate", *_percent(rate), f"{count_text(rate)}, dataset {worst}"))
    return cards


def _control_cells(control: Control) -> tuple[str, str]:
    if control.auroc is None:
        return "–", control.reason or ""
    return value_text(control.auroc), interval_text(control.auroc)


def _datasets(result: ProbeResult) -> list[Row]:
    rows: list[Row] = [(name, *_percent(rate), count_text(rate)) for name, rate in result.false_positives.items()]
    if result.harmless is not None:
        rate = result.harmless.false_positive_rate
        compared = "its twins" if result.harmless.twins else "untriggered harmless prompts"
        rows.append((f"(triggered but harmless, compared with {compared})", *_percent(rate), count_text(rate)))
    return rows


def _seen(result: ProbeResult) -> go.Figure | None:
    """The figure of a probe that reads answers, where they can be read token by token."""
    if result.answers is None or not result.answers.curve:
        return None
    before = result.controls.get("prompt_last_token")
    return tokens_seen(result.answers, None if before is None else before.auroc)


def _watching(result: ProbeResult) -> list[Row]:
    """How often it fires anywhere in an answer, and before the answers of a pair part."""
    answers = result.answers
    if answers is None or answers.detected is None:
        return []
    rows: list[Row] = [
        ("positives that fire anywhere in the answer", *_percent(answers.detected), count_text(answers.detected))
    ]
    if answers.parting is not None:
        before, by_first = answers.parting.before, answers.parting.by_first
        rows.append(("positives that fire before the pair's answers part", *_percent(before), count_text(before)))
        rows.append(("positives that fire by the first token that differs", *_percent(by_first), count_text(by_first)))
    for name, rate in answers.false_positives.items():
        rows.append((f"negatives that fire anywhere, {name}", *_percent(rate), count_text(rate)))
    return rows


def _percent(estimate: Estimate) -> tuple[str, str]:
    return value_text(estimate, ".1%"), interval_text(estimate, ".1%")


def _caption(example: Example, threshold: float) -> str:
    scored = example.scored
    fires = "fires" if scored.fires else "does not fire"
    where = Path(scored.where).name or f"prompt {scored.index}"
    return f"{example.kind} · {where} · score {scored.score:.2f} · {fires} (threshold {threshold:.2f})"
