"""Parts of a page from Python, for notebooks and for pages whose sections are not in a template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from triggerlens.page.render import environment, figure_html

if TYPE_CHECKING:
    import plotly.graph_objects as go


def report_page(
    title: str,
    *,
    heading: str,
    verdict: str,
    facts: Iterable[tuple[str, str]] = (),
    cards: Iterable[str] = (),
    sections: Iterable[str] = (),
    width: int = 1080,
) -> str:
    """The whole page.

    Args:
        title: of the window.
        heading: what was measured, usually the model's name.
        verdict: what it says, in a sentence or two.
        facts: name and value of what a reader must know to repeat it.
        cards: HTML of the headline numbers, from `card`.
        sections: HTML of the rest, from `section`.
        width: widest that the text grows, in pixels.
    """
    template = environment().get_template("assembled.html.jinja")
    made, parts = Markup("").join(map(Markup, cards)), Markup("\n").join(map(Markup, sections))
    return template.render(
        title=title, heading=heading, verdict=verdict, facts=list(facts), made=made, parts=parts, width=width
    )


def card(name: str, value: str, interval: str, note: str) -> str:
    """HTML of one headline number, with its interval and what it is a number of."""
    return _macro("card", name, value, interval, note)


def section(name: str, heading: str, words: str, body: str) -> str:
    """HTML of one section: a heading, what it shows and does not show, and a body of HTML."""
    return _macro("section", name, heading, words, Markup(body))


def plot(figure: go.Figure, name: str, *, responsive: bool = True) -> str:
    """HTML of a figure; `name` is unique on the page. It is as wide as the page, or, if not responsive, as the figure says."""
    return str(figure_html(figure, name, responsive))


def html_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, strong: Sequence[bool] = (), tokens: Sequence[int] = ()
) -> str:
    """HTML of a table.

    Args:
        head: the columns' names.
        rows: a text for each column.
        strong: rows to stand out.
        tokens: columns that hold tokens, drawn in a fixed-width font.
    """
    return _macro("table", head, list(rows), strong=strong, tokens=tokens)


def coloured_tokens(
    tokens: Sequence[str], values: Sequence[float], *, reach: float, middle: float = 0.0, caption: str = ""
) -> str:
    """HTML of a text, each token on a ground that is white at `middle`, orange above it and blue below.

    Args:
        tokens: the text of each token.
        values: one for each token; shown when the pointer rests there.
        reach: distance from `middle` at which the colour is fullest.
        middle: where it is white.
        caption: what the text is.

    Raises:
        ValueError: there are not as many values as tokens.
    """
    if len(tokens) != len(values):
        raise ValueError(f"{len(tokens)} tokens and {len(values)} values")
    return _macro("tokens", tokens, values, reach=reach, middle=middle, caption=caption)


def _macro(name: str, *values: Any, **named: Any) -> str:
    """What a macro of `macros.html.jinja` makes of these."""
    return str(getattr(environment().get_template("macros.html.jinja").module, name)(*values, **named))
