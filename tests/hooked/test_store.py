"""The activation store: addressed by content, whole or absent, resumed after a kill, shared by ranks."""

import shutil
import signal
import time

import pytest
import torch
from forked import run_ranks, start
from forked_work import stored_slowly
from tiny_models import tiny_checkpoint, tiny_model, tiny_tokenizer

import hooked.extraction
import hooked.store
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


def test_a_store_of_means_says_that_they_are_kept_in_float32_and_one_of_tokens_is_found_again(tmp_path):
    """A store of a half-precision model's means was rounded once: it must not be taken for one that is not."""
    half = load_model(tiny_model("llama").bfloat16(), tokenizer=tiny_tokenizer(tmp_path / "t"))
    kept = {}
    for position in ("last", "every", "mean", "first:2"):
        store = store_activations(half, prompts(4), ExtractionSpec(SITES, position), root=tmp_path)
        kept[position] = store.manifest.config["dtype"]
    assert kept == {
        "last": "torch.bfloat16",
        "every": "torch.bfloat16",
        "mean": "torch.float32",
        "first:2": "torch.float32",
    }
    full = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path / "t"))
    store = store_activations(full, prompts(4), ExtractionSpec(SITES, "mean"), root=tmp_path)
    assert store.manifest.config["dtype"] == "torch.float32"


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


def extracted(checkpoint, path, root):
    """What `stored_slowly` does, in this process."""
    model = load_model(str(checkpoint), device="cpu")
    return store_activations(model, read_prompts(path), ExtractionSpec(SITES), root=root).folder


def test_killed_and_run_again_gives_the_same_bytes_without_redoing_shards(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "model")
    write_prompts(tmp_path / "p.jsonl", prompts(60))
    killed = start(stored_slowly, checkpoint, tmp_path / "p.jsonl", tmp_path / "killed", 0.3)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("*.partial/shard-*.json"))) < 3:
        assert time.monotonic() < deadline
        assert killed.is_alive(), "the run must be killed before it ends"
        time.sleep(0.01)
    killed.kill()
    killed.join()
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


def test_a_store_that_another_process_finishes_meanwhile_is_opened(model, tmp_path, monkeypatch):
    spec, write = ExtractionSpec(SITES), hooked.store._write_shard
    theirs = store_activations(model, prompts(), spec, root=tmp_path / "theirs")

    def finished_by_another(folder, number, batch):
        if number == 2 and not (tmp_path / "ours" / theirs.folder.name).exists():
            for shard in folder.glob("*"):
                shard.unlink()
            folder.rmdir()
            shutil.copytree(theirs.folder, tmp_path / "ours" / theirs.folder.name)
        write(folder, number, batch)

    monkeypatch.setattr(hooked.store, "_write_shard", finished_by_another)
    ours = store_activations(model, prompts(), spec, root=tmp_path / "ours")
    assert contents(ours.folder) == contents(theirs.folder)


def test_two_ranks_write_one_store_equal_to_that_of_one(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "model")
    write_prompts(tmp_path / "p.jsonl", prompts(60))
    whole = extracted(checkpoint, tmp_path / "p.jsonl", tmp_path / "one")
    run_ranks(tmp_path / "told", stored_slowly, checkpoint, tmp_path / "p.jsonl", tmp_path / "two", 0)
    folders = {line for rank in range(2) for line in (tmp_path / f"told.{rank}").read_text().split()}
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
