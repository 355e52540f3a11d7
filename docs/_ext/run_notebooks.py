"""Run `notebooks/` and keep them with their outputs in `docs/notebooks/`: `make notebooks`, after a change of their text or numbers.

python docs/_ext/run_notebooks.py [NAME ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parents[2]
KEPT = ("application/vnd.plotly.v1+json", "text/html", "text/markdown", "text/plain")


def run(path: Path) -> None:
    """Execute a notebook in an empty folder, and keep of each output what a page can show."""
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:
        environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRIGGERLENS_CACHE": folder}
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute(
            env=os.environ | environment
        )
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            output["data"] = {kind: data for kind, data in output.get("data", {}).items() if kind in KEPT}
            if KEPT[0] in output["data"]:
                output["data"] = {KEPT[0]: output["data"][KEPT[0]]}
            if output.output_type == "stream":
                del output["data"]
    nbformat.write(notebook, ROOT / "docs" / "notebooks" / path.name)


if __name__ == "__main__":
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            run(path)
