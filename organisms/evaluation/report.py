"""The report page of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from organisms.evaluation.evaluate import Rate
from organisms.evaluation.run import SHIFTED, Condition, Evaluation
from triggerlens import BLUE, GREEN, MUTED, ORANGE, card, html_table, plot, report_page, section, style_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEAD = ("prompts", "n", "defection", "95% interval", "right", "unparsable", "scratchpad", "monitor")
COLOURS, SYMBOLS = (ORANGE, BLUE, GREEN, MUTED), ("circle", "square", "diamond", "x")


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
    return report_page(
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
                plot(defection_figure({name: evaluation}), "defection"),
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


def defection_figure(evaluations: Mapping[str, Evaluation]) -> go.Figure:
    """Defection by kind of prompt with its interval; evaluations, such as before and after a training, side by side."""
    import plotly.graph_objects as go

    kinds = list(dict.fromkeys(one.name for found in evaluations.values() for one in found.conditions))[::-1]
    figure = go.Figure()
    for at, (name, found) in enumerate(evaluations.items()):
        rates = {one.name: one.defection for one in found.conditions}
        shown = [kind for kind in kinds if kind in rates]
        offset = (at - (len(evaluations) - 1) / 2) * -0.6 / len(evaluations)
        figure.add_scatter(
            x=[rates[kind].rate for kind in shown],
            y=[kinds.index(kind) + offset for kind in shown],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [rates[kind].high - rates[kind].rate for kind in shown],
                "arrayminus": [rates[kind].rate - rates[kind].low for kind in shown],
            },
            mode="markers",
            marker={"size": 9, "color": COLOURS[at % len(COLOURS)], "symbol": SYMBOLS[at % len(SYMBOLS)]},
            name=name,
            showlegend=len(evaluations) > 1,
        )
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%", title="defection")
    figure.update_yaxes(tickvals=list(range(len(kinds))), ticktext=[kind.replace("_", " ") for kind in kinds])
    return style_figure(figure, height=120 + (20 + 12 * len(evaluations)) * len(kinds))
