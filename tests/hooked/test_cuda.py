"""On a GPU: the same activations as on the CPU, and a batch too large for its memory is halved."""

import json

import pytest
import torch
from calling import called
from tiny_models import ARCHITECTURES, TEXTS, tiny_checkpoint
from tiny_prompts import prompt_file

from hooked import ExtractionSpec, load_model, stream_activations

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def rows(model, spec, **options):
    results = {}
    for batch in stream_activations(model, list(TEXTS) * 8, spec, **options):
        results |= dict(zip(batch.indices.tolist(), batch.values, strict=True))
    return torch.stack([results[index] for index in sorted(results)])


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gpu_gives_the_activations_of_the_cpu(tmp_path, architecture, backend):
    folder = tiny_checkpoint(tmp_path / "m", architecture)
    cpu = load_model(folder, device="cpu")
    gpu = load_model(folder, device="cuda", dtype="float32", backend=backend)
    spec = ExtractionSpec(cpu.sites())
    torch.testing.assert_close(rows(gpu, spec), rows(cpu, spec), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
def test_a_model_asked_for_on_the_cpu_stays_there(tmp_path, backend):
    model = load_model(tiny_checkpoint(tmp_path / "m"), device="cpu", backend=backend)
    assert {parameter.device.type for parameter in model.hf_model.parameters()} == {"cpu"}


@pytest.mark.parametrize("backend", ["nnsight", "transformer-lens"])
def test_probe_train_gives_on_the_gpu_what_it_gives_on_the_cpu(tmp_path, backend):
    model, prompts = tiny_checkpoint(tmp_path / "m"), prompt_file(tmp_path / "prompts.jsonl")
    results = []
    for device in ("cuda", "cpu"):
        options = ("--backend", backend, "--dtype", "float32", "--device", device, "--json")
        done = called("probe-train", model, prompts, "--out", tmp_path / device, *options)
        assert done.code == 0, done.err
        results.append([layer["auroc"] for layer in json.loads(done.out)["per_layer"]])
    assert results[0] == pytest.approx(results[1], abs=0.01)


def test_a_batch_too_large_for_the_gpu_is_halved(tmp_path):
    model = load_model(tiny_checkpoint(tmp_path / "m"), device="cuda", dtype="float32")
    spec = ExtractionSpec(("resid_post.1",))
    expected = rows(model, spec, token_budget=64)
    used = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((used + 2**21) / torch.cuda.get_device_properties(0).total_memory)
    try:
        torch.testing.assert_close(rows(model, spec, token_budget=2**20), expected, atol=1e-4, rtol=1e-4)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
