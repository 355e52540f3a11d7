"""Artifact folders appear whole or not at all, and damage is found and named."""

import errno
import json
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from triggerlens import Manifest, UserError, check_destination, read_artifact, writing_artifact


def write(out, content="data", **options):
    with writing_artifact(out, Manifest(kind="thing", seed=3), **options) as folder:
        (folder / "a.json").write_text(content)
        (folder / "sub").mkdir()
        (folder / "sub" / "b.txt").write_text("b")


def test_round_trip_with_versions_and_digests(tmp_path):
    write(tmp_path / "x")
    manifest = read_artifact(tmp_path / "x", "thing")
    assert set(manifest.files) == {"a.json", "sub/b.txt"}
    assert manifest.seed == 3
    assert "torch" in manifest.versions


def test_the_same_content_gives_the_same_bytes(tmp_path):
    write(tmp_path / "x")
    write(tmp_path / "y")
    assert (tmp_path / "x" / "manifest.json").read_bytes() == (tmp_path / "y" / "manifest.json").read_bytes()


def test_an_exception_leaves_nothing_behind(tmp_path):
    def fail():
        with writing_artifact(tmp_path / "x", Manifest(kind="thing")) as folder:
            (folder / "half.json").write_text("{")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path):
    write(tmp_path / "x", "old")
    with pytest.raises(UserError, match="already exists"):
        write(tmp_path / "x", "new")
    assert (tmp_path / "x" / "a.json").read_text() == "old"
    write(tmp_path / "x", "new", overwrite=True)
    assert (tmp_path / "x" / "a.json").read_text() == "new"


def test_overwrite_never_deletes_a_folder_that_was_not_written_here(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match="was not written here"):
        write(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").exists()


@pytest.mark.parametrize("kind", ["", None])
def test_a_folder_of_no_kind_is_not_replaced_by_another(tmp_path, kind):
    write(tmp_path / "x")
    (tmp_path / "x" / "manifest.json").write_text(json.dumps({"kind": kind}))
    with pytest.raises(UserError, match="it holds something else, not a probe"):
        check_destination(tmp_path / "x", True, "probe")


def test_a_folder_behind_a_link_is_replaced_where_it_is_however_often(tmp_path):
    write(tmp_path / "disk" / "x", "old")
    (tmp_path / "x").symlink_to(tmp_path / "disk" / "x")
    for content in ("new", "newer"):
        write(tmp_path / "x", content, overwrite=True)
        assert (tmp_path / "x").is_symlink()
        assert (tmp_path / "disk" / "x" / "a.json").read_text() == content
    assert [path.name for path in tmp_path.glob("**/.*")] == [], "nothing is left beside it"


@pytest.mark.parametrize("out", [".", "..", "../x"])
def test_the_current_folder_is_not_replaced_and_that_is_said_before_any_work(tmp_path, monkeypatch, out):
    write(tmp_path / "x", "old")
    monkeypatch.chdir(tmp_path / "x" / "sub" if out == ".." else tmp_path / "x")
    with pytest.raises(UserError, match="holds the current folder; run from another one"):
        check_destination(out, overwrite=True)
    with pytest.raises(UserError, match="holds the current folder"):
        write(out, "new", overwrite=True)
    assert (tmp_path / "x" / "a.json").read_text() == "old"


def test_a_failed_overwrite_keeps_the_old_folder(tmp_path):
    write(tmp_path / "x", "old")
    with pytest.raises(ZeroDivisionError), writing_artifact(tmp_path / "x", Manifest(kind="thing"), overwrite=True):
        raise ZeroDivisionError
    assert (tmp_path / "x" / "a.json").read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_that_write_to_one_folder_the_second_waits_and_neither_loses_a_file(tmp_path, overwrite):
    """Each with files of its own, so that a mixture would show."""
    with ThreadPoolExecutor() as threads:
        with writing_artifact(tmp_path / "x", Manifest(kind="thing"), overwrite=overwrite) as folder:
            (folder / "weights.txt").write_text("first")
            second = threads.submit(write, tmp_path / "x", overwrite=overwrite)
            time.sleep(0.3)
            assert not second.done()
            (folder / "report.txt").write_text("first")
        refused = second.exception()
    files = set(read_artifact(tmp_path / "x", "thing").files)
    if overwrite:
        assert (refused, files) == (None, {"a.json", "sub/b.txt"})
    else:
        assert "already exists" in str(refused)
        assert files == {"weights.txt", "report.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_a_kill_has_left_is_in_nobody_s_way(tmp_path):
    (tmp_path / ".x.partial").mkdir()
    (tmp_path / ".x.partial" / "half.json").write_text("{")
    (tmp_path / ".x.partial.lock").touch()
    write(tmp_path / "x")
    assert set(read_artifact(tmp_path / "x", "thing").files) == {"a.json", "sub/b.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_file_is_named(tmp_path, damage):
    write(tmp_path / "x")
    victim = tmp_path / "x" / "sub" / "b.txt"
    victim.write_text("c") if damage == "change" else victim.unlink()
    with pytest.raises(UserError, match=r"sub/b.txt: (damaged|missing)"):
        read_artifact(tmp_path / "x", "thing")


def test_a_manifest_cannot_lead_outside_its_folder(tmp_path):
    write(tmp_path / "x")
    (tmp_path / "secret").write_text("s")
    manifest = json.loads((tmp_path / "x" / "manifest.json").read_text())
    for name in ("../secret", str(tmp_path / "secret")):
        (tmp_path / "x" / "manifest.json").write_text(json.dumps(manifest | {"files": {name: "0"}}))
        with pytest.raises(UserError, match="outside its folder"):
            read_artifact(tmp_path / "x", "thing")


def test_another_kind_and_no_artifact_are_refused(tmp_path):
    write(tmp_path / "x")
    with pytest.raises(UserError, match="holds a thing, not a probe"):
        read_artifact(tmp_path / "x", "probe")
    with pytest.raises(UserError, match="no probe here"):
        read_artifact(tmp_path, "probe")


@pytest.mark.parametrize("tensors", [True, False])
def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path, tensors):
    def fill():
        with writing_artifact(tmp_path / "x", Manifest(kind="thing")) as folder:
            if tensors:
                save_file({"a": torch.zeros(100_000)}, folder / "a.safetensors")
            else:
                (folder / "a.txt").write_text("a" * 100_000)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"could not be written: .*free space"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("elsewhere", ["/nonexistent/model.bin", "unreadable"])
def test_what_fails_in_the_block_for_another_reason_is_not_told_as_a_full_disk(tmp_path, elsewhere):
    """A file that is read while the folder is filled may be missing, or another user's."""

    def read():
        with writing_artifact(tmp_path / "x", Manifest(kind="thing")):
            if elsewhere == "unreadable":
                raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "elsewhere"))
            Path(elsewhere).read_bytes()

    with pytest.raises(OSError, match=r"No such file|Permission denied"):
        read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_said(tmp_path, reason):
    with (
        pytest.raises(UserError, match="x: could not be written: no; free space or give another --out"),
        writing_artifact(tmp_path / "x", Manifest(kind="thing")) as folder,
    ):
        raise OSError(reason, "no", str(folder / "a.txt"))
