"""Figures to files: HTML that opens offline, and SVG, PDF and PNG through kaleido, which drives a Chromium.

The same figure gives the same SVG: the random names that Plotly gives to an SVG's elements are numbered instead.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from triggerlens import UserError, write_bytes_atomically

FORMATS = ("html", "svg", "pdf", "png")
"""What a figure can be written as."""
PNG_SCALE = 3
"""Pixels of a PNG for each of the figure's: 288 to the inch."""


def check_formats(formats: Sequence[str]) -> None:
    """Each is one of `FORMATS`.

    Raises:
        UserError: one is not.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise UserError(f"unknown format {unknown[0]!r}; choose among {', '.join(FORMATS)}")


def export_figures(figures: Mapping[str, go.Figure], out: str | Path, formats: Sequence[str]) -> list[Path]:
    """Write every figure in every format, as `NAME.FORMAT`; HTML first.

    Raises:
        UserError: an unknown format, a folder that cannot be written, or no Chromium for a static format: the HTML is
            then written all the same.
    """
    check_formats(formats)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: could not be made: {error.strerror}; give another --out") from error
    static = [name for name in formats if name != "html"]
    missing = why_no_static() if static else None
    written = []
    if "html" in formats or missing:
        for name, figure in figures.items():
            written.append(folder / f"{name}.html")
            write_bytes_atomically(written[-1], html_page(figure, name).encode())
    if missing:
        raise UserError(f"{missing}; the HTML is in {folder}")
    for (name, kind), content in images(figures, static).items():
        written.append(folder / f"{name}.{kind}")
        write_bytes_atomically(written[-1], content)
    return written


def html_page(figure: go.Figure, name: str) -> str:
    """One self-contained page; the same figure gives the same page."""
    config = {"displaylogo": False}
    return str(figure.to_html(include_plotlyjs=True, div_id=name, config=config))


def why_no_static() -> str | None:
    """What is missing for static formats; None where nothing is."""
    try:
        import kaleido  # noqa: F401
        from choreographer.browsers.chromium import Chromium
    except ImportError:
        return "static formats need kaleido: pip install 'triggerlens[figures]'"
    browser = Chromium.find_browser(skip_local=False)
    if browser is None or not os.access(browser, os.X_OK):
        return "static formats need a Chromium, and none was found: install one (Debian: apt install chromium)"
    return None


def images(figures: Mapping[str, go.Figure], formats: Sequence[str]) -> dict[tuple[str, str], bytes]:
    """Every figure in every static format, by name and format; one browser for all.

    Raises:
        UserError: the browser does not start or does not answer.
    """
    if not formats:
        return {}
    with ThreadPoolExecutor(1) as thread:  # a notebook has an event loop of its own in this thread
        return thread.submit(asyncio.run, _images(figures, formats)).result()


async def _images(figures: Mapping[str, go.Figure], formats: Sequence[str]) -> dict[tuple[str, str], bytes]:
    from choreographer.browsers import BrowserFailedError
    from kaleido import Kaleido

    drawings = {}
    try:
        async with Kaleido(n=1, timeout=90) as browser:
            for name, figure in figures.items():
                for kind in formats:
                    content = await browser.calc_fig(figure.to_dict(), opts=_options(figure, kind))
                    drawings[name, kind] = stable_svg(content.decode()).encode() if kind == "svg" else content
    except (TimeoutError, BrowserFailedError) as error:
        raise UserError(f"the browser for static formats failed: {error}; --format html needs none") from error
    return drawings


def _options(figure: go.Figure, kind: str) -> dict[str, Any]:
    scale = PNG_SCALE if kind == "png" else 1
    return {"format": kind, "width": figure.layout.width, "height": figure.layout.height, "scale": scale}


def stable_svg(svg: str) -> str:
    """The same drawing with its elements' ids, and the classes made of a trace's random name, numbered in order."""
    svg = _numbered(svg, re.findall(r'\bid="([^"]+)"', svg), "e", r'\bid="[^"]+"|url\([^)]*\)|href="#[^"]+"')
    return _numbered(svg, re.findall(r'class="[^"]*\b(trace[0-9a-f]{6})\b', svg), "t", r'class="[^"]*"')


def _numbered(svg: str, ids: Sequence[str], letter: str, places: str) -> str:
    """Names replaced by a letter and a number wherever one of the places has them."""
    names = {name: f"{letter}{number}" for number, name in enumerate(dict.fromkeys(ids))}
    if not names:
        return svg
    known = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
    return re.sub(places, lambda place: known.sub(lambda name: names[name.group()], place.group()), svg)
