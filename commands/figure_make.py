"""`figure-make NAME|all`: draw the figures of the paper from saved results; no model and no GPU is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from commands._console import console, emit


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
    import sys

    from experiments import RESULTS
    from figures import FIGURES, check_formats, draw, export_figures, figure_named, without_result
    from triggerlens import UserError

    if config.list:
        text = "\n".join(
            f"{figure.name}: {figure.title} (from {', '.join(figure.experiments)})" for figure in FIGURES.values()
        )
        emit({name: figure.title for name, figure in FIGURES.items()}, as_json=config.json, text=text)
        return
    formats = config.format.split(",")
    check_formats(formats)
    root = config.results or RESULTS
    skipped = without_result(root) if config.figure == "all" else {}
    for name, why in skipped.items():
        print(f"{name}: skipped, {why}", file=sys.stderr)
    if len(skipped) == len(FIGURES):
        raise UserError(f"{root}: has no results to draw")
    names = [name for name in FIGURES if name not in skipped] if config.figure == "all" else [config.figure]
    figures = {figure_named(name).name: draw(name, root) for name in names}
    written = export_figures(figures, config.out, formats)
    emit({"files": [str(path) for path in written]}, as_json=config.json, text="\n".join(map(str, written)))


if __name__ == "__main__":
    main()
