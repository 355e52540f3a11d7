"""Plotly's pictures, of notebooks and of the gallery: drawn by plotly.js from this site, never from another one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import plotly
from sphinx.application import Sphinx

PLOTLY = "application/vnd.plotly.v1+json"
SCRIPT = "plotly.min.js"


def read_notebook(text: str) -> nbformat.NotebookNode:
    """A notebook whose Plotly outputs are HTML that waits for plotly.js."""
    notebook = nbformat.reads(text, 4)
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            figure = output.get("data", {}).pop(PLOTLY, None)
            if figure is not None:
                output["data"] = {"text/html": figure_html(figure, f"figure-{number}")}
    return notebook


def figure_html(figure: dict[str, Any], name: str) -> str:
    """An element, and the script that draws the figure into it once the page, and with it plotly.js, is there."""
    layout = figure["layout"] | {"autosize": True}
    config = {"displaylogo": False, "responsive": True}
    arguments = ", ".join(json.dumps(part).replace("</", "<\\/") for part in (name, figure["data"], layout, config))
    height = layout.get("height", 450)
    return (
        f'<div id="{name}" class="plotly-graph-div" style="height:{height}px"></div>'
        f'<script>addEventListener("DOMContentLoaded", () => Plotly.newPlot({arguments}))</script>'
    )


def add_script(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """plotly.js on the pages with pictures alone: it is 5 MB."""
    if pagename.startswith(("notebooks/", "gallery")) and doctree is not None:
        app.add_js_file(SCRIPT, loading_method="")


def copy_script(app: Sphinx, error: Exception | None) -> None:
    """plotly.js into the site, from the installed package."""
    if error is None and app.builder.format == "html":
        source = Path(plotly.__file__).parent / "package_data" / SCRIPT
        shutil.copyfile(source, Path(app.outdir) / "_static" / SCRIPT)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks."""
    app.connect("html-page-context", add_script)
    app.connect("build-finished", copy_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
