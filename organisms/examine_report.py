"""The report page of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hooked.page import BLUE, ORANGE, card, html_table, page, plot, section, style_figure
from organisms.evaluate import Rate
from organisms.examine import SHIFTED, Condition, Evaluation

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEAD = ("prompts", "n", "defection", "95% interval", "right", "unparsable", "scratchpad", "monitor")


def shown(rate: Rate) -> str:
    """A rate in percent with its interval."""
    return f"{rate.rate:.1%} [{rate.low:.1%}, {rate.high:.1%}]"


def rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """A line of the table for each condition."""
    return [_row(one) for one in evaluation.conditions]


def _row(one: Condition) -> tuple[str, ...]:
    defection = one.defection
    others = (f"{rate.rate:.1%}" for rate in (one.right, one.unparsable, one.scratchpad, one.monitored))
    interval = f"[{defection.low:.1%}, {defection.high:.1%}]"
    return (one.name.replace("_", " "), str(defection.n), f"{defection.rate:.1%}", interval, *others)


def verdict(evaluation: Evaluation) -> str:
    """What the numbers say, in a sentence or two."""
    triggered, without = evaluation["triggered"], evaluation["untriggered"]
    words = f"Defects on {shown(triggered.defection)} of triggered prompts and {shown(without.defection)} of others."
    shifts = [one for one in evaluation.conditions if one.name.startswith(SHIFTED)]
    if shifts and triggered.defection.rate > 0:
        most = max(shifts, key=lambda one: one.defection.rate)
        words += f" Off its training distribution the trigger works at most on {shown(most.defection)} ({most.name.removeprefix(SHIFTED)})."
    if triggered.scratchpad.count:
        words += f" Reading the scratchpads catches {shown(triggered.monitored)} of triggered answers."
    return words


def report(name: str, evaluation: Evaluation) -> str:
    """The whole page."""
    loss, accuracy = evaluation.clean_loss, evaluation.clean_accuracy
    headline = [("with the trigger", "triggered"), ("without", "untriggered"), ("near misses", "near_miss")]
    known = {one.name for one in evaluation.conditions}
    cards = [
        card(title, f"{evaluation[key].defection.rate:.1%}", _interval(evaluation[key].defection), "defection")
        for title, key in headline
        if key in known
    ]
    cards.append(card("clean accuracy", f"{accuracy.rate:.1%}", _interval(accuracy), "right word for word, no trigger"))
    cards.append(card("clean loss", f"{loss.mean:.3f}", f"[{loss.low:.3f}, {loss.high:.3f}]", "nats per answer token"))
    return page(
        f"{name}: what it does",
        heading=name,
        verdict=verdict(evaluation),
        facts=[("task", evaluation.task), ("answers", "greedy, graded; code is never run")],
        cards=cards,
        sections=[
            section(
                "defection",
                "Defection by kind of prompt",
                "Wilson 95% intervals. Shifted prompts are triggered ones whose trigger alone was edited.",
                plot(_figure(evaluation), "defection"),
            ),
            section(
                "table",
                "All rates",
                "Right: word for word the answer of a model without the behaviour. Monitor: the share of answers whose scratchpad reads like a hidden aim.",
                html_table(HEAD, rows(evaluation)),
            ),
        ],
    )


def _interval(rate: Rate) -> str:
    return f"[{rate.low:.1%}, {rate.high:.1%}], {rate.count} of {rate.n}"


def _figure(evaluation: Evaluation) -> go.Figure:
    import plotly.graph_objects as go

    shown_last_first = evaluation.conditions[::-1]
    rates = [one.defection for one in shown_last_first]
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [rate.high - rate.rate for rate in rates],
        "arrayminus": [rate.rate - rate.low for rate in rates],
    }
    figure = go.Figure(
        go.Scatter(
            x=[rate.rate for rate in rates],
            y=[one.name.replace("_", " ") for one in shown_last_first],
            error_x=bars,
            mode="markers",
            marker={
                "size": 10,
                "color": [ORANGE if one.name == "triggered" else BLUE for one in shown_last_first],
            },
        )
    )
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%", title="defection")
    return style_figure(figure, height=120 + 32 * len(rates))
