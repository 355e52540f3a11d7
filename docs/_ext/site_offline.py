"""The built pages must show without a network: nothing on them is fetched from elsewhere, and every picture has its plotly.js."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

_FETCHED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""", re.IGNORECASE)


def check(app: Sphinx, error: Exception | None) -> None:
    """Read every page that was built.

    Raises:
        ExtensionError: a page would fetch something, or lacks plotly.js.
    """
    if error is not None or app.builder.format != "html":
        return
    for page in sorted(Path(app.outdir).rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        if found := _FETCHED.search(text):
            raise ExtensionError(f"{page}: needs a network for {found.group(0)}")
        if "Plotly.newPlot" in text and "_static/plotly.min.js" not in text:
            raise ExtensionError(f"{page}: has a figure but not plotly.js")


def setup(app: Sphinx) -> dict[str, bool]:
    """Check when all is written."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
