"""Directives whose text is made at build, so that it cannot grow old.

```{claims-table}          the table of claims, from the committed results
```{command-help} NAME     what a command's --help prints
"""

from __future__ import annotations

import os
import subprocess
import sys

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from experiments import markdown, read_table


class ClaimsTable(SphinxDirective):
    """The table of `experiment-run --claims`."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(markdown(read_table()))


class CommandHelp(SphinxDirective):
    """A command's own help."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        code = f"from commands.{self.arguments[0].replace('-', '_')} import main; main()"
        outcome = subprocess.run(
            [sys.executable, "-c", code, "--help"],
            env=os.environ | {"COLUMNS": "96", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if outcome.returncode:
            raise self.error(f"{self.arguments[0]} --help failed: {outcome.stderr[-500:]}")
        text = outcome.stdout.replace("usage: -c", f"usage: {self.arguments[0]}")
        return [nodes.literal_block(text, text, language="text", classes=["command-help"])]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
