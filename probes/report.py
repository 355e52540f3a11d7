"""A self-contained HTML report of one probe: opens offline, and the same result gives the same bytes.

Prompts are untrusted text: everything that is not written here is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float
from torch import Tensor

from probes.aggregation import aggregate
from probes.plots import POSITIVE, categories, layer_figure, pca_figure, roc_figure, score_figure
from probes.report_words import WORDS
from probes.result import Control, ProbeResult
from probes.verdict import probe_verdict
from triggerlens import Estimate, card, coloured_tokens, html_table, plot, report_page, section


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
    sections = [section(f"figure-{name}", *WORDS[name], plot(figure, name)) for name, figure in figures.items()]
    sections.insert(1, section("controls", *WORDS["controls"], _controls(result)))
    sections.insert(3, section("datasets", *WORDS["datasets"], _datasets(result)))
    if examples:
        sections.append(section("examples", *WORDS["examples"], _examples(result, examples)))
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
    return report_page(
        f"Probe report: {probe.model or 'model'}, {best.site}",
        heading=probe.model or "Linear probe",
        verdict=probe_verdict(result),
        facts=facts,
        cards=_cards(result),
        sections=sections,
    )


def _cards(result: ProbeResult) -> list[str]:
    worst, rate = next(iter(result.false_positives.items()))
    cards = [("Test AUROC", _number(result.best.auroc), f"{result.best.site}, chosen on validation")]
    for point in result.tpr:
        cards.append((f"TPR at {point.fpr:.1%} FPR", _percent(point.tpr), point.note or "on test, never interpolated"))
    cards.append(("Detected at the frozen threshold", _percent(result.detected), _count(result.detected)))
    cards.append(("Worst false-positive rate", _percent(rate), f"{_count(rate)}, dataset {worst}"))
    return [card(name, value, interval, note) for name, (value, interval), note in cards]


def _controls(result: ProbeResult) -> str:
    rows = [("probe", *_number(result.best.auroc), "the number to compare with")]
    for name, control in result.controls.items():
        rows.append((name.replace("_", " "), *_control_cells(control), WORDS.get(f"control:{name}", ("", ""))[1]))
    random = next((r for r in rows if r[0].startswith("random directions")), None)
    if random:
        rows[rows.index(random)] = (*random[:3], WORDS["control:random_directions"][1])
    return html_table(("", "AUROC", "95% interval", "what it says"), rows)


def _control_cells(control: Control) -> tuple[str, str]:
    if control.auroc is None:
        return "–", control.reason or ""
    if control.interval:
        return f"{control.auroc:.3f}", f"[{control.interval[0]:.3f}, {control.interval[1]:.3f}]"
    if "min" in control.details:
        return f"{control.auroc:.3f}", f"range {control.details['min']:.3f}–{control.details['max']:.3f}"
    return f"{control.auroc:.3f}", "the highest found"


def _datasets(result: ProbeResult) -> str:
    rows = [(name, *_percent(rate), _count(rate)) for name, rate in result.false_positives.items()]
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
    table = html_table(("dataset", "fires", "95% interval", "prompts"), rows)
    return table + (f'<p class="note">{escape(str(note))}</p>' if note else "")


def _examples(result: ProbeResult, examples: Sequence[Example]) -> str:
    distances = np.concatenate([np.abs(example.scores - result.probe.threshold) for example in examples])
    reach = float(np.quantile(distances, 0.95)) or 1.0
    return "".join(_example(example, result.probe.threshold, reach) for example in examples)


def _example(example: Example, threshold: float, reach: float) -> str:
    fires = "fires" if example.score > threshold else "does not fire"
    caption = f"{example.title} · score {example.score:.2f} · {fires} (threshold {threshold:.2f})"
    return coloured_tokens(example.tokens, example.scores.tolist(), reach=reach, middle=threshold, caption=caption)


def _number(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.3f}", f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def _percent(estimate: Estimate) -> tuple[str, str]:
    value = "–" if math.isnan(estimate.value) else f"{estimate.value:.1%}"
    return value, f"[{estimate.low:.1%}, {estimate.high:.1%}]"


def _count(rate: Estimate) -> str:
    return f"{rate.count} of {rate.n}"
