"""Workers that hold the model write the store of one process, byte for byte, or reduce what they read where they read it."""

import os
from functools import partial
from importlib import util
from pathlib import Path

import pytest
import torch
import worked_tasks
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer

import hooked.extraction
from hooked import ExtractionSpec, Prompt, load_model, reduce_activations, store_activations
from probes.classifiers.moments import Moments
from triggerlens import ExecutorConfig, UserError

TWO, RAY = ExecutorConfig(jobs=2), ExecutorConfig(executor="ray", jobs=2)
needs_ray = [pytest.mark.skipif(util.find_spec("ray") is None, reason="needs the package ray"), pytest.mark.slow]
EVERYWHERE = [pytest.param(ExecutorConfig(), id="serial"), pytest.param(TWO, id="processes", marks=pytest.mark.slow)]
EVERYWHERE += [pytest.param(RAY, id="ray", marks=needs_ray)]
SITES = ("resid_post.0", "resid_post.2")


@pytest.fixture(autouse=True)
def windows(monkeypatch):
    """Windows of eight prompts; workers find modules as a fresh Python does."""
    monkeypatch.setattr(hooked.extraction, "WINDOW_PROMPTS", 8)
    paths = [str(Path(worked_tasks.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(str(tiny_checkpoint(tmp_path_factory.mktemp("m") / "model")), device="cpu")


def prompts(number=30):
    return [Prompt("abc def" * (1 + index % 7) + str(index), triggered=index % 2 == 1) for index in range(number)]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


ONE_WORKER = ExecutorConfig(executor="processes")  # each takes seconds to import torch


@pytest.mark.parametrize("executor", [*EVERYWHERE, pytest.param(ONE_WORKER, id="one-process")])
@pytest.mark.parametrize("position", ["last", pytest.param("every", marks=pytest.mark.slow)])
def test_the_store_is_that_of_one_process(model, tmp_path, executor, position):
    spec = ExtractionSpec(SITES, position)
    one = store_activations(model, prompts(), spec, root=tmp_path / "one")
    many = store_activations(model, prompts(), spec, root=tmp_path / "many", executor=executor)
    assert contents(many.folder) == contents(one.folder)
    assert [path.name for path in (tmp_path / "many").iterdir()] == [one.folder.name]


@pytest.mark.parametrize("executor", EVERYWHERE)
def test_moments_that_are_reduced_in_the_workers_are_those_of_the_whole(model, tmp_path, executor):
    labels = torch.tensor([prompt.triggered for prompt in prompts()])
    spec = ExtractionSpec(SITES)
    parts = reduce_activations(model, prompts(), spec, partial(worked_tasks.moments, labels), executor)
    merged = Moments(scatter=True)
    for part in parts:
        merged.merge(part)
    whole = Moments(scatter=True)
    for index, values in store_activations(model, prompts(), spec, root=tmp_path).batches():
        whole.update(values, labels[index])
    assert merged.count == whole.count == (15, 15)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.within, whole.within, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_what_comes_back_is_in_the_order_of_the_prompts(model):
    counts = list(reduce_activations(model, prompts(), ExtractionSpec(SITES), worked_tasks.indices_slowly, TWO))
    assert [index for own in counts for index in own] == list(range(30))


@pytest.mark.parametrize("executor", EVERYWHERE[1:])
def test_a_worker_that_is_killed_costs_a_window(model, tmp_path, executor):
    use = partial(worked_tasks.killed_at_window, str(tmp_path / "died"), 2)
    counts = list(reduce_activations(model, prompts(), ExtractionSpec(SITES), use, executor))
    assert sum(map(len, counts)) == 30
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_a_window_whose_worker_dies_each_time_is_named(model):
    use = partial(worked_tasks.killed_at_window, "", 2)
    with pytest.raises(UserError, match=r"window 2 \(prompts 16 to 23\).*run again: finished windows are kept"):
        list(reduce_activations(model, prompts(), ExtractionSpec(SITES), use, TWO))


def test_a_model_that_cannot_be_loaded_again_is_one_line(tmp_path):
    live = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path))
    with pytest.raises(UserError, match="a live model is not loaded again by workers"):
        store_activations(live, prompts(), ExtractionSpec(SITES), root=tmp_path, executor=TWO)


@pytest.mark.slow
def test_a_worker_whose_model_is_another_refuses(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "model")
    model = load_model(str(checkpoint), device="cpu")
    with torch.no_grad():
        model.hf_model.get_input_embeddings().weight.add_(1)
    with pytest.raises(UserError, match="a worker's model is not this one"):
        store_activations(model, prompts(), ExtractionSpec(SITES), root=tmp_path, executor=TWO)


@pytest.mark.slow
@pytest.mark.skipif(util.find_spec("ray") is None, reason="needs the package ray")
def test_a_machine_that_leaves_the_cluster_costs_its_window(model, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    try:
        executor = ExecutorConfig(executor="ray", address=cluster.address)
        use = partial(worked_tasks.noted_window, str(tmp_path))
        parts = reduce_activations(model, prompts(160), ExtractionSpec(SITES), use, executor)
        read = [next(parts)]
        while len({path.name.split("-")[0] for path in tmp_path.iterdir()}) < 2:  # both machines are at work
            read.append(next(parts))
        cluster.remove_node(second)
        read += parts
    finally:
        cluster.shutdown()
    assert [index for own in read for index in own] == list(range(160))
    assert 20 <= len(list(tmp_path.iterdir())) <= 21, "twenty windows, and at most the one under way again"
