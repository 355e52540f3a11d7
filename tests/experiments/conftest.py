import inserted
import pytest
from tiny_models import tiny_checkpoint
from tiny_prompts import prompt_file

from experiments import Subject


@pytest.fixture(scope="session")
def tiny_subject(tmp_path_factory):
    """A tiny random model of three layers with prompts of a word trigger, and another as its clean twin."""
    folder = tmp_path_factory.mktemp("subject")
    return Subject(
        str(tiny_checkpoint(folder / "model")),
        prompt_file(folder / "prompts.jsonl"),
        str(tiny_checkpoint(folder / "twin", seed=1)),
    )


@pytest.fixture(scope="session")
def inserted_subject(tmp_path_factory):
    """A tiny organism as insertion into a chat model writes one, and its clean twin."""
    return inserted.inserted_subject(tmp_path_factory.mktemp("inserted"))
