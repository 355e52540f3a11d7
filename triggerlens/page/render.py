"""Templates to a page.

1. A room's templates are found beside its `report.py`, the shared ones here.
2. Everything is escaped but what a macro, a plot or plotly.js returns.
3. A name that the template uses and nobody gave is an error, never an empty place.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from triggerlens.page.formats import count_text, estimate_text, interval_text, value_text
from triggerlens.plot_style import BLUE, ORANGE

if TYPE_CHECKING:
    import plotly.graph_objects as go

TEMPLATES = Path(__file__).parent / "templates"


def render_page(beside: str | Path, template: str, **context: Any) -> str:
    """The HTML of a page.

    Args:
        beside: a file in the room, `__file__` of its `report.py`; its templates are in the folder `templates` next to it.
        template: name of the template, such as `trace.html.jinja`.
        context: what the template uses: `title`, `heading`, `verdict`, and optionally `facts` ((name, value) each), `cards` ((name, value,
            interval, note) each) and `width` (pixels) for `page.html.jinja`; anything else for the template's own sections.

    Raises:
        jinja2.TemplateNotFound: there is no such template.
        jinja2.UndefinedError: the template uses a name that was not given.
    """
    return environment(Path(beside).parent / "templates").get_template(template).render(**context)


@cache
def environment(folder: Path = TEMPLATES) -> Environment:
    """The templates of a folder, and after them the shared ones."""
    made = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "value": value_text,
        "interval": interval_text,
        "estimate": estimate_text,
        "count_of": count_text,
    }
    made.globals |= {"plotly_script": plotly_script, "figure_html": figure_html, "token_ground": token_ground}
    return made


def coloured_tokens(
    tokens: Sequence[str], values: Sequence[float], *, reach: float, middle: float = 0.0, caption: str = ""
) -> str:
    """HTML of a text, each token on a ground that is white at `middle`, orange above it and blue below; for notebooks.

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
    macros: Any = environment().get_template("macros.html.jinja").module
    return str(macros.tokens(tokens, values, reach=reach, middle=middle, caption=caption))


def plotly_script() -> Markup:
    """plotly.js as a script element, so that the page needs nothing from elsewhere."""
    from plotly.offline import get_plotlyjs

    return Markup(f"<script>{get_plotlyjs()}</script>")


def figure_html(figure: go.Figure, name: str, responsive: bool = True) -> Markup:
    """A figure as HTML, without plotly.js.

    Args:
        figure: the figure.
        name: unique on the page.
        responsive: as wide as the page; otherwise as wide as the figure says.
    """
    config = {"displaylogo": False, "responsive": responsive}
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"plot-{name}", config=config))


def token_ground(value: float, middle: float, reach: float) -> str:
    """CSS colour behind a token: white at `middle`, orange above it, blue below, fullest at a distance of `reach`."""
    strength = min(1.0, abs(value - middle) / reach) * 0.75 if reach > 0 else 0.0
    colour = ORANGE if value > middle else BLUE
    red, green, blue = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return f"rgba({red},{green},{blue},{strength:.2f})"
