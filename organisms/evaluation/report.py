"""The report page of an evaluation, and the folder that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from organisms.evaluation import plots
from organisms.evaluation.result import Evaluation
from organisms.evaluation.verdict import HEAD, PERCENT, evaluation_rows, evaluation_verdict
from triggerlens import (
    Estimate,
    Manifest,
    count_text,
    interval_text,
    render_page,
    value_text,
    write_json,
    writing_artifact,
)

HEADLINES = {"with the trigger": "triggered", "without": "untriggered", "near misses": "near_miss"}


def evaluation_page(name: str, evaluation: Evaluation) -> str:
    """The whole page, as HTML.

    Args:
        name: of the model.
        evaluation: what it does.
    """
    return render_page(
        __file__,
        "evaluation.html.jinja",
        title=f"{name}: what it does",
        heading=name,
        verdict=evaluation_verdict(evaluation),
        facts=[("task", evaluation.task), ("answers", "greedy, graded; code is never run")],
        cards=_cards(evaluation),
        figure=plots.defection_figure({name: evaluation}),
        head=HEAD,
        rows=evaluation_rows(evaluation),
    )


def _cards(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    known = {condition.name: condition.defection for condition in evaluation.conditions}
    rates = [(title, known[key], "defection rate") for title, key in HEADLINES.items() if key in known]
    rates.append(("clean accuracy", evaluation.clean_accuracy, "right word for word, no trigger"))
    loss = evaluation.clean_loss
    return [
        *((title, value_text(rate, PERCENT), _interval(rate), note) for title, rate, note in rates),
        ("clean loss", value_text(loss), interval_text(loss), "nats per answer token"),
    ]


def _interval(rate: Estimate) -> str:
    return f"{interval_text(rate, PERCENT)}, {count_text(rate)}"


def write_evaluation(
    out: Path, name: str, evaluation: Evaluation, manifest: Manifest, facts: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Write evaluation.json, report.html and manifest.json.

    Args:
        out: the folder.
        name: of the model, for the page.
        evaluation: what it does.
        manifest: what it was made of.
        facts: what else evaluation.json says.
        overwrite: replace an evaluation that is there.

    Raises:
        UserError: `out` exists, or cannot be written.
    """
    with writing_artifact(out, manifest, overwrite=overwrite) as draft:
        write_json(draft / "evaluation.json", {**facts, **evaluation.to_json()})
        (draft / "report.html").write_text(evaluation_page(name, evaluation), encoding="utf-8")
