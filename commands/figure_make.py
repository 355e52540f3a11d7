"""`figure-make NAME|all`: draw the figures of the paper from saved results; no model and no GPU is needed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from commands._console import console, emit
from triggerlens import UserError

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True)
class Config:
    """Draw figures from the results of `experiment-run`.

    Static formats (svg, pdf, png) need a Chromium; without one the HTML is written all the same.
    """

    figure: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = "all"
    """Which, or `all`; `--list` names them."""
    list: bool = False
    """Name the figures."""
    format: str = "html"
    """One or more of html, svg, pdf, png, with commas between."""
    out: Path = Path("runs/figures")
    """Folder to write; files of the same name are replaced."""
    results: Path | None = None
    """Folder of results; the project's own where not given."""
    json: bool = False
    """Print one JSON object instead of text."""


def main() -> None:
    """Entry point of the console script."""
    console(Config, run)


def run(config: Config) -> None:
    """List the figures, or draw and write them."""
    from experiments import RESULTS
    from figures import FIGURES, check_formats, draw, export_figures

    if config.list:
        text = "\n".join(
            f"{figure.name}: {figure.title} (from {', '.join(figure.experiments)})" for figure in FIGURES.values()
        )
        emit({name: figure.title for name, figure in FIGURES.items()}, as_json=config.json, text=text)
        return
    formats = config.format.split(",")
    check_formats(formats)
    root = config.results or RESULTS
    figures = all_that_can(root) if config.figure == "all" else {config.figure: draw(config.figure, root)}
    written = export_figures(figures, config.out, formats)
    emit({"files": [str(path) for path in written]}, as_json=config.json, text="\n".join(map(str, written)))


def all_that_can(root: Path) -> dict[str, go.Figure]:
    """Every figure that can be drawn from the results under `root`; of each other one, stderr says why not.

    Raises:
        UserError: none can.
    """
    from figures import FIGURES, draw, without_result

    skipped, figures = without_result(root), {}
    for name in FIGURES:
        try:
            if name not in skipped:
                figures[name] = draw(name, root)
        except UserError as error:  # there are results, which do not go together
            skipped[name] = str(error)
    for name, why in skipped.items():
        print(f"{name}: skipped, {why}", file=sys.stderr)
    if not figures:
        raise UserError(f"{root}: has no results to draw")
    return figures


if __name__ == "__main__":
    main()
