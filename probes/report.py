"""A self-contained HTML report of one probe: opens offline, and the same result gives the same bytes.

Prompts are untrusted text: everything that is not written here is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.offline import get_plotlyjs
from torch import Tensor

from probes.aggregate import aggregate
from probes.figures import POSITIVE, UNTRIGGERED, categories, layer_figure, pca_figure, roc_figure, score_figure
from probes.metrics import Estimate, Rate
from probes.report_style import PAGE, WORDS
from probes.results import Control, ProbeResult
from probes.verdict import verdict


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with the score of each of its tokens."""

    title: str
    """What kind of prompt, and where it comes from."""
    tokens: tuple[str, ...]
    scores: Float[np.ndarray, "token"]
    score: float
    """The prompt's own score, aggregated as the probe does."""


def example_rows(result: ProbeResult, each: int = 2) -> list[int]:
    """Indices of test prompts worth showing: of each kind the hardest (nearest the wrong side), then the median, …"""
    chosen = []
    for kind in categories(result):
        members = np.flatnonzero(kind.members)
        toward = -1 if kind.colour != POSITIVE else 1
        order = members[np.lexsort((members, toward * result.test.scores[members]))]
        places = np.unique(np.linspace(0, len(order) // 2, each).astype(int))
        chosen += result.test.rows[order[places]].tolist()
    return chosen


def make_example(
    result: ProbeResult, row: int, tokens: Sequence[str], activations: Float[Tensor, "token d_model"], where: str = ""
) -> Example:
    """Score a test prompt's tokens.

    Args:
        result: the result whose probe scores.
        row: the prompt's index, one of `example_rows`.
        tokens: the text of each token.
        activations: of every token, at the probe's best site.
        where: file and line, for the title.
    """
    position = int(np.flatnonzero(result.test.rows == row)[0])
    kind = next(kind.name for kind in categories(result) if kind.members[position])
    scores = result.probe(activations).cpu()
    whole = float(aggregate(scores, [len(scores)], result.probe.aggregation)[0])
    return Example(f"{kind} · {where or f'prompt {row}'}", tuple(tokens), scores.numpy(), whole)


def report_html(result: ProbeResult, examples: Sequence[Example] = ()) -> str:
    """The whole page."""
    figures = {
        "layers": layer_figure(result),
        "scores": score_figure(result),
        "roc": roc_figure(result),
        "pca": pca_figure(result),
    }
    sections = [_section(f"figure-{name}", WORDS[name], _plot(figure, name)) for name, figure in figures.items()]
    sections.insert(1, _section("controls", WORDS["controls"], _controls(result)))
    sections.insert(3, _section("datasets", WORDS["datasets"], _datasets(result)))
    if examples:
        sections.append(_section("examples", WORDS["examples"], _examples(result, examples)))
    probe, best = result.probe, result.best
    facts = [
        ("model", probe.model or "(unnamed)"),
        ("site", probe.site),
        ("position", probe.aggregation),
        ("probe", probe.method),
        ("positive label", probe.label),
        ("backend", result.backend or "(none)"),
        ("test prompts", f"{result.n_positive} positive, {result.n_negative} negative"),
        ("layer chosen on", f"{result.split_sizes['validation']} validation prompts"),
    ]
    return PAGE.format(
        plotly=get_plotlyjs(),
        title=escape(f"Probe report: {probe.model or 'model'}, {best.site}"),
        heading=escape(probe.model or "Linear probe"),
        verdict=escape(verdict(result)),
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts),
        cards=_cards(result),
        sections="\n".join(sections),
    )


def _section(name: str, words: tuple[str, str], body: str) -> str:
    heading, explanation = words
    return f'<section id="{name}"><h2>{heading}</h2><p class="note">{explanation}</p>{body}</section>'


def _plot(figure: go.Figure, name: str) -> str:
    config = {"displaylogo": False, "responsive": True}
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"plot-{name}", config=config)


def _cards(result: ProbeResult) -> str:
    worst, rate = next(iter(result.false_positives.items()))
    cards = [("Test AUROC", _number(result.best.auroc), f"{result.best.site}, chosen on validation")]
    for point in result.tpr:
        cards.append((f"TPR at {point.fpr:.1%} FPR", _percent(point.tpr), point.note or "on test, never interpolated"))
    cards.append(("Detected at the frozen threshold", _percent(result.detected.rate), _count(result.detected)))
    cards.append(("Worst false-positive rate", _percent(rate.rate), f"{_count(rate)}, dataset {worst}"))
    body = '<div class="card"><h3>{}</h3><p class="value">{}<small>{}</small></p><p class="note">{}</p></div>'
    return "".join(body.format(escape(name), value, interval, escape(note)) for name, (value, interval), note in cards)


def _controls(result: ProbeResult) -> str:
    rows = [("probe", *_number(result.best.auroc), "the number to compare with")]
    for name, control in result.controls.items():
        rows.append((name.replace("_", " "), *_control_cells(control), WORDS.get(f"control:{name}", ("", ""))[1]))
    random = next((r for r in rows if r[0].startswith("random directions")), None)
    if random:
        rows[rows.index(random)] = (*random[:3], WORDS["control:random_directions"][1])
    return _table(("", "AUROC", "95% interval", "what it says"), rows)


def _control_cells(control: Control) -> tuple[str, str]:
    if control.auroc is None:
        return "–", control.reason or ""
    if control.interval:
        return f"{control.auroc:.3f}", f"[{control.interval[0]:.3f}, {control.interval[1]:.3f}]"
    if "min" in control.details:
        return f"{control.auroc:.3f}", f"range {control.details['min']:.3f}–{control.details['max']:.3f}"
    return f"{control.auroc:.3f}", "the highest found"


def _datasets(result: ProbeResult) -> str:
    rows = [(name, *_percent(rate.rate), _count(rate)) for name, rate in result.false_positives.items()]
    harmless = result.controls["triggered_but_harmless"]
    if harmless.auroc is not None:
        rate = harmless.details["false_positive_rate"]
        cells = (
            f"{rate['rate']:.1%}",
            f"[{rate['ci'][0]:.1%}, {rate['ci'][1]:.1%}]",
            f"{rate['fired']} of {rate['total']}",
        )
        rows.append(("(triggered but harmless, compared with its twins)", *cells))
    note = result.probe.calibration.get("note", "")
    return _table(("dataset", "fires", "95% interval", "prompts"), rows) + (
        f'<p class="note">{escape(str(note))}</p>' if note else ""
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _examples(result: ProbeResult, examples: Sequence[Example]) -> str:
    distances = np.concatenate([np.abs(example.scores - result.probe.threshold) for example in examples])
    reach = float(np.quantile(distances, 0.95)) or 1.0
    return "".join(_example(example, result.probe.threshold, reach) for example in examples)


def _example(example: Example, threshold: float, reach: float) -> str:
    spans = "".join(
        _token(token, float(score), threshold, reach)
        for token, score in zip(example.tokens, example.scores, strict=True)
    )
    fires = "fires" if example.score > threshold else "does not fire"
    head = f"{escape(example.title)} · score {example.score:.2f} · {fires} (threshold {threshold:.2f})"
    return f'<figure class="example"><figcaption>{head}</figcaption><div class="tokens">{spans}</div></figure>'


def _token(token: str, score: float, threshold: float, reach: float) -> str:
    """One token on a ground that is white at the threshold, orange above it and blue below it."""
    strength = min(1.0, abs(score - threshold) / reach) * 0.75
    red, green, blue = (int((POSITIVE if score > threshold else UNTRIGGERED)[i : i + 2], 16) for i in (1, 3, 5))
    shown = escape(token).replace("\n", "↵\n")
    return f'<span style="background:rgba({red},{green},{blue},{strength:.2f})" title="{score:.3f}">{shown}</span>'


def _number(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.3f}", f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def _percent(estimate: Estimate) -> tuple[str, str]:
    value = "–" if math.isnan(estimate.value) else f"{estimate.value:.1%}"
    return value, f"[{estimate.low:.1%}, {estimate.high:.1%}]"


def _count(rate: Rate) -> str:
    return f"{rate.fired} of {rate.total}"
