"""Whoever is killed at whatever moment: the same comes out, and nothing that was whole is computed again."""

import sys
from importlib import util
from pathlib import Path

import pytest

SPEC = util.spec_from_file_location("kills", Path(__file__).parents[2] / "benchmarks" / "kills.py")
kills = util.module_from_spec(SPEC)
sys.modules[SPEC.name] = kills  # where a dataclass looks for its module
SPEC.loader.exec_module(kills)

pytestmark = pytest.mark.slow


def skip_without_ray(executor):
    if executor == "ray" and util.find_spec("ray") is None:
        pytest.skip("needs the package ray")


@pytest.fixture(scope="module")
def result():
    return {victim: kills.undisturbed(victim) for victim in ("worker", "actor")}


@pytest.mark.parametrize("kind", kills.KINDS)
def test_ten_kills_at_random_moments(kind, result):
    executor, victim = kind.split("/")
    skip_without_ray(executor)
    for kill in kills.landed_kills(10, kind, result["actor" if victim == "actor" else "worker"]):
        assert kill.same
        assert (kill.twice, kill.left) == (0, 0)
        assert kill.redone <= (kills.WORKERS if victim == "driver" else 1)


@pytest.mark.parametrize("executor", ["serial", "processes", "ray"])
def test_two_drivers_at_once_share_the_work(executor, result):
    skip_without_ray(executor)
    same, twice, shares = kills.two_drivers(executor, result["worker"])
    assert same
    assert twice == 0
    assert min(shares) >= 2
