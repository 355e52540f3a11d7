"""The activation store: addressed by content, whole or absent, resumed after a kill, shared by ranks."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer

import hooked.extraction
from hooked import (
    ActivationStore,
    ExtractionSpec,
    Prompt,
    load_model,
    read_prompts,
    store_activations,
    stream_activations,
    write_prompts,
)
from triggerlens import UserError

SITES = ("resid_post.0", "resid_post.2")

EXTRACT = """
import os, sys, time
import hooked.extraction
hooked.extraction.WINDOW_PROMPTS = 8
from hooked import ExtractionSpec, load_model, read_prompts, store_activations
model = load_model(sys.argv[1], device="cpu")
delay = float(sys.argv[4])
model.hf_model.get_submodule("model.layers.0").register_forward_pre_hook(lambda *_: time.sleep(delay))
store = store_activations(model, read_prompts(sys.argv[2]), ExtractionSpec(("resid_post.0", "resid_post.2")), root=sys.argv[3])
os.write(1, f"{store.folder}\\n".encode())  # in one piece: two ranks share the pipe
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path_factory.mktemp("t")))


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(hooked.extraction, "WINDOW_PROMPTS", 8)


def prompts(number=30):
    return [Prompt("abc def" * (1 + index % 7) + str(index), triggered=False) for index in range(number)]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("position", ["last", "every"])
def test_what_is_read_is_what_was_streamed(model, tmp_path, position):
    spec = ExtractionSpec(SITES, position)
    store = store_activations(model, prompts(), spec, root=tmp_path)
    assert (len(store), store.sites) == (30, SITES)
    streamed = {}
    for batch in stream_activations(model, prompts(), spec):
        streamed |= dict(zip(batch.indices.tolist(), batch.values.split(batch.counts.tolist()), strict=True))
    for indices, rows in store.batches([2, 9, 29]):
        for index in indices.unique().tolist():
            torch.testing.assert_close(rows[indices == index], streamed[index], atol=1e-6, rtol=1e-6)
    assert sum(len(rows) for _, rows in store.batches()) == sum(len(rows) for rows in streamed.values())


def test_the_address_depends_on_everything_that_changes_a_number(model, tmp_path):
    spec = ExtractionSpec(SITES)
    folders = {
        store_activations(model, prompts(4), spec, root=tmp_path).folder,
        store_activations(model, prompts(5), spec, root=tmp_path).folder,
        store_activations(model, prompts(4), ExtractionSpec(SITES[:1]), root=tmp_path).folder,
        store_activations(model, prompts(4), ExtractionSpec(SITES, "mean"), root=tmp_path).folder,
        store_activations(model, prompts(4), ExtractionSpec(SITES, dtype=torch.bfloat16), root=tmp_path).folder,
        store_activations(
            load_model(tiny_model("llama", seed=1), tokenizer=model.tokenizer), prompts(4), spec, root=tmp_path
        ).folder,
        store_activations(
            load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path / "t", bos=False)),
            prompts(4),
            spec,
            root=tmp_path,
        ).folder,
    }
    assert len(folders) == 7
    relabelled = [Prompt(prompt.prompt, triggered=True, pair="x") for prompt in prompts(4)]
    assert store_activations(model, relabelled, spec, root=tmp_path).folder in folders, "labels change no activation"


def test_a_finished_store_is_opened_without_running_the_model(model, tmp_path):
    store_activations(model, prompts(), ExtractionSpec(SITES), root=tmp_path)
    ran = []
    handle = model.hf_model.get_submodule("model.layers.0").register_forward_hook(lambda *_: ran.append(1))
    store_activations(model, prompts(), ExtractionSpec(SITES), root=tmp_path)
    handle.remove()
    assert ran == []


def test_a_damaged_shard_is_named(model, tmp_path):
    store = store_activations(model, prompts(), ExtractionSpec(SITES), root=tmp_path)
    shard = store.folder / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    reopened = ActivationStore(store.folder)
    assert sum(len(rows) for _, rows in reopened.batches(range(8))) == 8, "other shards stay readable"
    with pytest.raises(UserError, match=r"shard-00001.safetensors: damaged"):
        list(reopened.batches())


def test_an_unfinished_store_is_not_taken_for_a_finished_one(tmp_path):
    with pytest.raises(UserError, match="no activations here"):
        ActivationStore(tmp_path)


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1"}


def extracted(checkpoint, path, root):
    """What EXTRACT does, in this process."""
    model = load_model(str(checkpoint), device="cpu")
    return store_activations(model, read_prompts(path), ExtractionSpec(SITES), root=root).folder


def test_killed_and_run_again_gives_the_same_bytes_without_redoing_shards(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "model")
    write_prompts(tmp_path / "p.jsonl", prompts(60))
    command = [sys.executable, "-c", EXTRACT, str(checkpoint), str(tmp_path / "p.jsonl")]
    killed = subprocess.Popen(
        [*command, str(tmp_path / "killed"), "0.3"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("*.partial/shard-*.json"))) < 3:
        assert time.monotonic() < deadline
        assert killed.poll() is None, "the run must be killed before it ends"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "killed").glob("*.partial/shard-*.safetensors")
        if path.with_suffix(".json").exists()
    }
    first, second = (extracted(checkpoint, tmp_path / "p.jsonl", tmp_path / root) for root in ("whole", "killed"))
    assert contents(first) == contents(second)
    assert 3 <= len(kept) < 8
    for path, time_written in kept.items():
        assert (second / path.name).stat().st_mtime_ns == time_written


def test_two_ranks_write_one_store_equal_to_that_of_one(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "model")
    write_prompts(tmp_path / "p.jsonl", prompts(60))
    (tmp_path / "extract.py").write_text(EXTRACT)
    arguments = [str(tmp_path / "extract.py"), str(checkpoint), str(tmp_path / "p.jsonl")]
    whole = extracted(checkpoint, tmp_path / "p.jsonl", tmp_path / "one")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = subprocess.run(
        [*launcher, *arguments, str(tmp_path / "two"), "0"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    folders = set(two.stdout.split())
    assert len(folders) == 1, "both ranks open the same store"
    assert contents(whole) == contents(tmp_path / "x" / folders.pop())


def test_a_full_disk_is_one_clear_line(model, tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"shard-00000.safetensors: could not be written: .*free space"):
            store_activations(model, prompts(), ExtractionSpec(SITES), root=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(store_activations(model, prompts(), ExtractionSpec(SITES), root=tmp_path)) == 30, (
        "and the next run goes on"
    )
