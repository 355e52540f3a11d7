"""The score interval is the published one, and is sound at its ends."""

import pytest
from scipy.stats import binomtest

from triggerlens.estimate import wilson_interval


@pytest.mark.parametrize(("count", "n"), [(0, 500), (500, 500), (3, 10), (1, 1), (497, 500)])
def test_intervals_are_those_of_scipy(count: int, n: int) -> None:
    expected = binomtest(count, n).proportion_ci(method="wilson")
    assert wilson_interval(count, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_seen_is_nothing_known_and_none_or_all_reach_the_end() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


@pytest.mark.parametrize(("count", "n"), [(-1, 5), (6, 5)])
def test_no_proportion_is_refused(count: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(count, n)
