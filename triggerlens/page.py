"""The look that every report shares: one self-contained page that opens offline.

Prompts are untrusted text, so everything given here as text is escaped; only what is called `body` or `html` is taken as
it is. The same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from triggerlens.plot_style import BLUE, ORANGE

if TYPE_CHECKING:
    import plotly.graph_objects as go

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ margin: 0; background: #f5f6f8; color: #1d2433; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: {width}px; margin: 0 auto; padding: 32px 20px 64px; }}
h1 {{ font-size: 1.9rem; margin: 0 0 .3em; }}
h2 {{ font-size: 1.2rem; margin: 0; }}
h3 {{ font-size: .85rem; margin: 0; color: #475467; font-weight: 600; }}
.verdict {{ font-size: 1.1rem; border-left: 5px solid #D55E00; background: #fff; padding: 14px 18px; border-radius: 4px; }}
.note {{ color: #5b6577; font-size: .88rem; margin: .3em 0 .8em; max-width: 80ch; }}
dl {{ display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0 0 1em; font-size: .9rem; }}
dl div {{ display: flex; gap: 6px; }} dt {{ color: #5b6577; }} dd {{ margin: 0; font-weight: 600; overflow-wrap: anywhere; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(185px, 1fr)); gap: 12px; }}
.card, section {{ background: #fff; border: 1px solid #e4e7ec; border-radius: 8px; padding: 14px 16px; }}
.card .note {{ margin: 0; }}
.value {{ font-size: 1.7rem; font-weight: 650; margin: .1em 0; }}
.value small {{ display: block; font-size: .85rem; font-weight: 400; color: #475467; }}
section {{ margin-top: 18px; padding: 18px 20px; overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .92rem; min-width: 50%; }}
th, td {{ text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid #e4e7ec; vertical-align: top; }}
th {{ color: #475467; font-weight: 600; white-space: nowrap; }}
td {{ font-variant-numeric: tabular-nums; min-width: 3.6em; overflow-wrap: anywhere; }}
td.token {{ font-family: ui-monospace, Menlo, Consolas, monospace; }}
tr.strong td {{ font-weight: 700; color: #9a4300; }}
.example {{ margin: 0 0 16px; }}
figcaption {{ font-size: .85rem; color: #475467; margin-bottom: 4px; }}
.tokens {{ font: 14px/1.8 ui-monospace, "SF Mono", Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  border: 1px solid #e4e7ec; border-radius: 6px; padding: 10px 12px; background: #fff; }}
.tokens span {{ border-radius: 3px; box-shadow: inset 0 0 0 .5px rgba(29, 36, 51, .12); }}
</style>
{script}
</head>
<body>
<main>
<h1>{heading}</h1>
<dl>{facts}</dl>
<p class="verdict">{verdict}</p>
{cards}
{sections}
</main>
</body>
</html>
"""


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
    from plotly.offline import get_plotlyjs

    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    cards = "".join(cards)
    return _PAGE.format(
        width=width,
        script=f"<script>{get_plotlyjs()}</script>",
        title=escape(title),
        heading=escape(heading),
        verdict=escape(verdict),
        facts=cells,
        cards=f'<div class="cards">{cards}</div>' if cards else "",
        sections="\n".join(sections),
    )


def card(name: str, value: str, interval: str, note: str) -> str:
    """HTML of one headline number, with its interval and what it is a number of."""
    name, value, interval, note = map(escape, (name, value, interval, note))
    return f'<div class="card"><h3>{name}</h3><p class="value">{value}<small>{interval}</small></p><p class="note">{note}</p></div>'


def section(name: str, heading: str, words: str, body: str) -> str:
    """HTML of one section: a heading, what it shows and does not show, and a body of HTML."""
    return f'<section id="{escape(name)}"><h2>{escape(heading)}</h2><p class="note">{escape(words)}</p>{body}</section>'


def plot(figure: go.Figure, name: str, *, responsive: bool = True) -> str:
    """HTML of a figure.

    Args:
        figure: the figure.
        name: unique on the page.
        responsive: as wide as the page; otherwise as wide as the figure says.
    """
    config = {"displaylogo": False, "responsive": responsive}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"plot-{name}", config=config))


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
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = []
    for at, row in enumerate(rows):
        kind = ' class="strong"' if at < len(strong) and strong[at] else ""
        opened = ['<td class="token">' if column in tokens else "<td>" for column in range(len(row))]
        cells = "".join(f"{tag}{escape(cell)}</td>" for tag, cell in zip(opened, row, strict=True))
        lines.append(f"<tr{kind}>{cells}</tr>")
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


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
    """
    spans = []
    for token, value in zip(tokens, values, strict=True):
        strength = min(1.0, abs(value - middle) / reach) * 0.75 if reach > 0 else 0.0
        red, green, blue = (int((ORANGE if value > middle else BLUE)[i : i + 2], 16) for i in (1, 3, 5))
        shown = escape(token).replace("\n", "↵\n")
        spans.append(
            f'<span style="background:rgba({red},{green},{blue},{strength:.2f})" title="{value:.3f}">{shown}</span>'
        )
    caption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="example">{caption}<div class="tokens">{"".join(spans)}</div></figure>'
