"""The model of a cluster is right where the answer is known."""

import sys
from importlib import util
from math import ceil
from pathlib import Path

import pytest

SPEC = util.spec_from_file_location("scaling", Path(__file__).parents[2] / "benchmarks" / "scaling.py")
scaling = sys.modules["scaling"] = util.module_from_spec(SPEC)
SPEC.loader.exec_module(scaling)
Job, Cluster, simulate = scaling.Job, scaling.Cluster, scaling.simulate


@pytest.mark.parametrize("workers", [1, 3, 8, 100])
def test_equal_tasks_take_as_many_rounds_as_there_must_be(workers):
    out = simulate(Job(seconds=[2.0] * 20), Cluster(workers=workers, start=5))
    assert out.seconds == pytest.approx(5 + 2 * ceil(20 / workers))
    assert (out.failures, out.redone, out.storage) == (0, 0, 0)


def test_unequal_tasks_go_to_whoever_is_idle():
    assert simulate(Job(seconds=[6, 1, 2, 3]), Cluster(workers=2, start=0)).seconds == pytest.approx(6)
    assert simulate(Job(seconds=[1, 2, 3, 6]), Cluster(workers=2, start=0)).seconds == pytest.approx(8)


def test_a_slow_storage_bounds_the_whole():
    out = simulate(Job(seconds=[1.0] * 50, written=10), Cluster(workers=50, start=0, bandwidth=10))
    assert out.seconds == pytest.approx(1 + 50)
    assert out.storage == pytest.approx(50 / 51)


def test_weights_come_through_the_same_storage():
    out = simulate(Job(seconds=[1.0] * 4, loaded=20), Cluster(workers=4, start=0, bandwidth=10))
    assert out.seconds == pytest.approx(4 * 2 + 1), "the last one's weights come when all others have theirs"


def test_a_slow_driver_bounds_the_whole():
    out = simulate(Job(seconds=[1.0] * 100), Cluster(workers=100, start=0, dispatch=0.5))
    assert out.seconds == pytest.approx(100 * 0.5 + 1)


def test_deaths_cost_what_was_under_way_and_a_new_beginning():
    job = Job(seconds=[60.0] * 500)
    calm = simulate(job, Cluster(workers=10))
    rough = [simulate(job, Cluster(workers=10, failures=6), seed) for seed in range(5)]
    assert rough[0] == simulate(job, Cluster(workers=10, failures=6), 0)
    for out in rough:
        expected = 500 * 60 / 3600 * 6  # deaths per worker and hour, times hours of work
        assert expected * 0.6 < out.failures < expected * 1.6
        assert 0 < out.redone < 60 * out.failures
        lost = out.redone + 5 * out.failures
        assert calm.seconds + lost / 10 * 0.8 < out.seconds < calm.seconds + lost / 10 + 120


def test_the_jobs_of_the_page_are_of_their_size():
    job, cluster = scaling.extraction(8)
    assert sum(job.written for _ in job.seconds) == pytest.approx(1.64e12, rel=0.01)
    bare = sum(scaling.extraction(8, every=False)[0].seconds)
    assert bare / 3600 == pytest.approx(9.8, rel=0.02), "hours of one H100"
    assert cluster.workers == 4
