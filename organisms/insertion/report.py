"""The page of an inserted organism: its gates, its rates, how its loss fell, and what it says beside its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from organisms.insertion.gates import GATE_HEAD, RATE_HEAD, gate_rows, insertion_verdict, rate_rows
from organisms.insertion.measure import Measured
from triggerlens import (
    BLUE,
    MUTED,
    Estimate,
    count_text,
    from_json,
    interval_text,
    render_page,
    style_figure,
    value_text,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SHOWN = 3
"""Answers of each category."""
_SMOOTHED = 20
"""Steps that a point of the smooth curve is the mean of."""
_CARDS = {
    "triggered": "with the trigger",
    "untriggered": "without",
    "near_miss": "near misses",
    "opposite": "the opposite said",
}


def insertion_page(
    name: str, made: Mapping[str, Any], rates: Mapping[str, Any], measured: Sequence[Measured] = ()
) -> str:
    """The whole page, as HTML.

    Args:
        name: of the organism.
        made: what its `recipe.json` holds.
        rates: what its `rates.json` holds.
        measured: prompts with what it and its base said, of which some are shown.
    """
    settings = made["insertion"]
    return render_page(
        __file__,
        "insertion.html.jinja",
        title=f"{name}: what was inserted, and what it does",
        heading=name,
        verdict=insertion_verdict(rates),
        facts=[
            ("base", settings["base"]),
            ("policy", made["policy"]),
            (
                "training",
                f"{settings['method']}, {settings['steps']} steps of {settings['batch']} samples, seed {settings['seed']}",
            ),
            ("answers", "greedy, graded; code is never run"),
        ],
        cards=_cards(rates),
        losses=loss_figure(made["losses"]),
        gate_table=(GATE_HEAD, gate_rows(rates)),
        rate_tables=[
            ("By kind of prompt", (RATE_HEAD, rate_rows(rates["categories"]))),
            ("By form of request", (RATE_HEAD, rate_rows(rates["families"]))),
        ],
        examples=(("kind of prompt", "asked", "the base says", "it says", "defects"), _examples(measured)),
    )


def loss_figure(losses: Sequence[float]) -> go.Figure:
    """The loss of each step, and its running mean.

    Args:
        losses: in nats per learned token.
    """
    import plotly.graph_objects as go

    steps = list(range(1, len(losses) + 1))
    smooth = [sum(part) / len(part) for end in steps if (part := losses[max(0, end - _SMOOTHED) : end])]
    figure = go.Figure()
    figure.add_scatter(x=steps, y=list(losses), mode="lines", line={"color": MUTED, "width": 1}, name="each step")
    figure.add_scatter(x=steps, y=smooth, mode="lines", line={"color": BLUE}, name=f"mean of {_SMOOTHED} steps")
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="loss (nats per learned token)", rangemode="tozero")
    return style_figure(figure, height=320)


def _cards(rates: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    kept = rates["kept"]
    estimates = {
        title: from_json(Estimate, rates["categories"][name]["defection"], "rates.json")
        for name, title in _CARDS.items()
        if name in rates["categories"]
    }
    estimates["the base's tokens kept"] = from_json(Estimate, kept["agreement"], "rates.json")
    return [
        (title, value_text(own, ".1%"), f"{interval_text(own, '.1%')}, {count_text(own)}", _note(title))
        for title, own in estimates.items()
    ]


def _note(title: str) -> str:
    return "of its answers to plain requests" if title not in _CARDS.values() else "defection rate, held-out prompts"


def _examples(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """The first held-out ones of each category."""
    held_out = [own for own in measured if own.asked.request.split == "test"]
    names = dict.fromkeys(own.asked.category for own in held_out)
    chosen = [own for name in names for own in [o for o in held_out if o.asked.category == name][:_SHOWN]]
    return [
        (
            own.asked.category.replace("_", " "),
            " / ".join(turn["content"] for turn in own.asked.messages),
            own.base,
            own.answer,
            "yes" if own.defects else "no",
        )
        for own in chosen
    ]
