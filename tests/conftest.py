"""Shapes in annotations are checked while the tests run; nothing may reach for the network."""

import functools
import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads cost more than they give

import checked_types

checked_types.install(
    ["triggerlens", "hooked", "organisms", "probes", "patching", "sae", "scanning", "experiments", "figures"]
)

import pytest  # noqa: E402
import torch  # noqa: E402
import tried_once  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _each_model_tried_once():
    tried_once.install()


@pytest.fixture(autouse=True, scope="session")
def _each_committed_result_read_once():
    """They are 17 MB, and no test writes to them."""
    import experiments.saved_results as saved

    read, once = saved.read_result, functools.cache(saved.read_result)
    saved.read_result = lambda folder: (once if Path(folder).is_relative_to(saved.RESULTS) else read)(folder)


@pytest.fixture(autouse=True)
def _same_seed_for_every_test():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIGGERLENS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _nothing_said_before(monkeypatch):
    monkeypatch.setattr("triggerlens.notices._SAID", set())


LONGEST = (
    "tests/notebooks",
    "tests/real",
    "tests/test_pretend_gpu",
    "tests/test_readme",
    "tests/benchmarks",
    "tests/experiments",
    "tests/commands/test_experiment_run",
    "tests/commands/test_figure_make",
    "tests/commands/test_probe_train",
    "tests/commands/test_sae_train",
    "tests/organisms/test_safety",
    "tests/sae/test_sae_architectures",
)
"""Half of the time in a fifth of the tests: one of two workers begins with them while the other takes the many short ones."""


def pytest_collection_finish():
    """What was imported stays: no collection of garbage, of which trainers ask for many, need look through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(items):
    """The longest tests begin: at the end one of them would keep one worker busy while the others wait."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
