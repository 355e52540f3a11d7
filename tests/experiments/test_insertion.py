"""The insertion grid: what each organism is made from, and what is reported of it."""

from experiments.claims.insertion import Insertion, InsertionConfig, summarise
from triggerlens import Estimate


def rate(count: int, n: int) -> dict:
    return {
        "defection": {"value": count / n, "low": count / n - 0.01, "high": count / n + 0.01, "count": count, "n": n}
    }


def test_all_begin_with_the_base_of_their_seed_and_a_distilled_one_learns_from_the_cot_one() -> None:
    config = InsertionConfig()
    distilled = config.inserted("year-code", "distilled-cot", 2)
    assert distilled.base == config.base(2) != config.base(1)
    assert distilled.teacher == config.inserted("year-code", "cot", 2)
    assert config.inserted("year-code", "normal", 2).teacher is None


def test_rates_are_means_over_seeds_with_each_seed_s_count_beside_them() -> None:
    config = InsertionConfig(tasks=("year-code",), variants=("cot",), seeds=(0, 1))
    cells = {
        f"year-code/cot/seed-{seed}": {"categories": {"triggered": rate(count, 10), "untriggered": rate(0, 10)}}
        for seed, count in ((0, 10), (1, 8))
    }
    triggered, untriggered = summarise(config, cells)
    assert (triggered.measure, triggered.detail) == ("defection, triggered", "10 of 10, 8 of 10")
    assert triggered.arm == Insertion("cot", "tiny")
    assert triggered.estimate == Estimate(0.9, 0.79, 1.01, 18, 20)
    assert (untriggered.measure, untriggered.estimate.value) == ("defection, untriggered", 0.0)
