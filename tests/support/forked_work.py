"""What tests do in processes of their own."""

import importlib
import os
import runpy
import time
import types
from dataclasses import replace
from pathlib import Path


def stored_slowly(checkpoint: Path, prompts: Path, root: Path, delay: float) -> None:
    """Activations into a store in windows of eight prompts, with a wait at each forward pass; prints the store's folder."""
    import hooked.extraction
    from hooked import ExtractionSpec, load_model, read_prompts, store_activations

    hooked.extraction.WINDOW_PROMPTS = 8
    model = load_model(str(checkpoint), device="cpu")
    model.hf_model.get_submodule("model.layers.0").register_forward_pre_hook(lambda *_: time.sleep(delay))
    spec = ExtractionSpec(("resid_post.0", "resid_post.2"))
    os.write(1, f"{store_activations(model, read_prompts(prompts), spec, root=root).folder}\n".encode())


def trained_and_saved(path: Path, dead: int = 0) -> None:
    """Two autoencoders after eight steps; their weights, as this rank has them. As many latents begin dead, and are resampled."""
    import torch
    from safetensors.torch import save_file
    from sparse_worlds import make_world

    from sae import BatchTopK, TensorSource, TopK, TrainConfig, train_saes
    from triggerlens.processes import rank

    torch.set_num_threads(1)
    rows = make_world(rows=2_048).rows
    config = TrainConfig(steps=8, batch=2_048, learning_rate=4e-3, precision="float32", seed=3)
    saes = [TopK(64, 128, k=4), BatchTopK(64, 128, k=4)]
    if dead:
        config = replace(config, dead_after=2_048, resample_every=2)
        for sae in saes:
            sae.b_enc.data[:dead] = -100.0
    train_saes(TensorSource(rows, 1_024), saes, config)
    state = {f"{sae.architecture}.{name}": value for sae in saes for name, value in sae.state_dict().items()}
    save_file(state, f"{path}.{rank()}")


def names_of_faces(rooms: list[str]) -> None:
    """Prints the names of faces that are not there, or that are modules."""
    for room in rooms:
        face = importlib.import_module(room)
        for name in face.__all__:
            try:
                value = getattr(face, name)
            except (ImportError, AttributeError) as error:
                print(f"{room}.{name}:", type(error).__name__)
                continue
            if isinstance(value, types.ModuleType):
                print(f"{room}.{name} is a module")


def run_script(path: Path) -> None:
    """As `python NAME` in the script's folder."""
    os.chdir(path.parent)
    runpy.run_path(path.name, run_name="__main__")
