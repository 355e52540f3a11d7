"""The pipeline on worlds in which the answer is planted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hooked import choose_labels
from probes import Control, TrainConfig, check_prompts, metrics_json, probe_verdict, train_probe
from probes.classifiers.base import FitRows
from probes.controls import best_direction
from probes.detection import LabelledScores
from probes.fit import new_probe
from triggerlens import Estimate, UserError

SITES = ("resid_post.0", "resid_post.1", "resid_post.2")
FAST = TrainConfig(n_bootstrap=200, n_random_directions=100, n_shuffles=4)


def train(world, config=FAST, **keys):
    return train_probe(world.source, world.prompts, SITES, config, tokens=world.tokens, **keys)


@pytest.fixture(scope="module")
def behaviour(world):
    return train(world(behaviour=4.0))


@pytest.fixture(scope="module")
def tokens_only(world):
    return train(world(trigger=4.0))


@pytest.mark.parametrize("method", ["logistic", "mean-difference", "lda"])
@pytest.mark.parametrize("aggregation", ["last", "max"])
def test_recovers_the_planted_direction_at_the_planted_layer(world, method, aggregation):
    here = world(behaviour=6.0)
    result = train(here, replace(FAST, method=method, aggregation=aggregation), token_source=here.token_source)
    assert result.best.site == "resid_post.2"
    assert result.best.auroc.value > 0.99
    assert 0.35 < result.layers[0].auroc.value < 0.65
    assert float(result.probe.direction[0]) > 0.8


def test_controls_of_a_probe_that_reads_behaviour(behaviour):
    harmless = behaviour.harmless
    assert harmless.auroc.low <= 0.5 <= harmless.auroc.high
    assert harmless.twins
    assert harmless.defecting_against_harmless.value > 0.95
    assert harmless.bag_of_tokens_auroc > 0.95
    shuffled = behaviour.controls["shuffled_labels"].auroc
    assert 0.3 < shuffled.value < 0.7
    random = behaviour.controls["random_directions_best_of_100"].auroc
    assert max(0.5, shuffled.value) < random.value < behaviour.best.auroc.value
    for estimate in (shuffled, random):
        assert estimate.low <= estimate.value <= estimate.high


def test_controls_of_a_probe_that_reads_the_triggers_tokens(tokens_only):
    harmless = tokens_only.harmless
    assert harmless.auroc.value > 0.95
    assert 0.3 < harmless.defecting_against_harmless.value < 0.7


def test_streamed_methods_agree_with_fitting_in_memory(world):
    from hooked import split_prompts
    from probes import LDAProbe, MeanDifferenceProbe

    here = world(behaviour=4.0)
    label, labels = choose_labels(here.prompts, "auto")
    rows = split_prompts(here.prompts, labels).fit
    for method, probe in (("lda", LDAProbe()), ("mean-difference", MeanDifferenceProbe())):
        result = train(here, replace(FAST, method=method))
        wanted = probe.fit(here.x[rows], torch.from_numpy(labels[rows]))
        torch.testing.assert_close(result.probe.coef, wanted.coef_, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(result.probe.intercept, wanted.intercept_, rtol=1e-8, atol=1e-10)
    assert label == "defects"


@pytest.mark.parametrize("method", ["logistic", "mean-difference", "lda"])
def test_shuffled_probes_are_the_same_method_refitted(world, method):
    x = world(pairs=30, behaviour=4.0).x
    labels, shuffles = np.arange(len(x)) % 2 == 0, np.stack([np.roll(np.arange(len(x)) % 4 < 2, k) for k in range(3)])
    halves = [(torch.arange(50), x[:50]), (torch.arange(50, len(x)), x[50:])]

    def refit(y):
        return new_probe(TrainConfig(method=method, shrinkage=0.2)).fit_rows(FitRows(lambda: iter(halves), y, shuffles))

    coef, intercept = refit(labels).shuffled(2)
    for k, shuffle in enumerate(shuffles):
        wanted = refit(shuffle)
        torch.testing.assert_close(coef[k], wanted.coef[2], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(intercept[k], wanted.intercept[2], rtol=1e-4, atol=1e-5)


def test_few_test_prompts_are_enough_for_the_bank_of_controls(world):
    here = world(behaviour=4.0)
    few, all_of_them = (train(here, replace(FAST, max_control_prompts=most)) for most in (60, 10_000))
    assert few.controls["random_directions_best_of_100"].auroc.value == pytest.approx(
        all_of_them.controls["random_directions_best_of_100"].auroc.value, abs=0.15
    )
    assert few.best == all_of_them.best


def test_checked_prompts_give_the_same_result_and_are_not_divided_again(world, monkeypatch):
    here = world(behaviour=4.0)
    checked, whole = check_prompts(here.prompts, FAST), train(here)
    monkeypatch.setattr("probes.inputs.split_prompts", lambda *_: pytest.fail("divided again"))
    again = train_probe(here.source, checked, SITES, FAST, tokens=here.tokens)
    assert metrics_json(again) == metrics_json(whole)


def test_the_interval_of_the_best_direction_is_that_directions_own_either_way_round():
    generator = np.random.default_rng(0)
    positive = np.arange(80) < 40
    scores = generator.normal(size=(80, 6))
    scores[:, 4] -= 2.0 * positive
    bank = LabelledScores(scores, positive, np.arange(80), 200)
    control = best_direction(bank, 1)
    turned = LabelledScores(-scores[:, 4], positive, np.arange(80), 200).auroc()
    assert control.auroc.value == pytest.approx(turned.value)
    assert control.auroc.interval == pytest.approx(turned.interval)
    assert control.details["n_directions"] == 5


def test_every_prompt_is_read_once_but_for_the_pca(world):
    here = world(behaviour=4.0)
    result = train(here, replace(FAST, max_plot_prompts=10))
    assert sum(here.reads) == len(here.prompts) + 10
    assert sum(result.split_sizes.values()) == len(here.prompts)


def test_the_test_split_decides_nothing(world):
    here, changed = world(behaviour=4.0), world(behaviour=4.0)
    result = train(here)
    changed.x[result.test.rows] = torch.randn_like(changed.x[result.test.rows]) * 10
    other = train(changed)
    assert other.probe.best == result.probe.best
    assert torch.equal(other.probe.coef, result.probe.coef)
    assert torch.equal(other.probe.thresholds, result.probe.thresholds)
    assert other.best.auroc.value < 0.7 < result.best.auroc.value


def test_scaling_a_layer_changes_no_verdict(world):
    here, scaled = world(behaviour=4.0), world(behaviour=4.0)
    scaled.x = scaled.x * 1000 + 50
    plain, large = train(here), train(scaled)
    torch.testing.assert_close(plain.probe.coef, large.probe.coef * 1000, rtol=1e-2, atol=1e-3)
    assert [layer.auroc.value for layer in plain.layers] == pytest.approx(
        [layer.auroc.value for layer in large.layers], abs=1e-3
    )


def test_a_layer_that_does_not_vary_is_at_chance(world):
    here = world(behaviour=4.0)
    here.x[:, 0] = 0.1 + 1e-8 * here.x[:, 0]
    auroc = train(here).layers[0].auroc
    assert auroc.low < auroc.value == 0.5 < auroc.high
    assert auroc.width < 0.2


def test_same_input_gives_the_same_bytes(world):
    first, again = (json.dumps(metrics_json(train(world(behaviour=4.0))), allow_nan=False) for _ in range(2))
    assert first == again


def test_metrics_json_has_the_promised_keys(behaviour):
    metrics = metrics_json(replace(behaviour, backend="nnsight"))
    assert {
        "model",
        "backend",
        "site",
        "position",
        "probe",
        "label",
        "best_layer",
        "test",
        "per_layer",
        "controls",
    } <= set(metrics)
    test_keys = {"auroc", "auroc_ci", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "n_positive", "n_negative"}
    assert test_keys <= set(metrics["test"])
    assert "cannot resolve 0.1%" in metrics["test"]["tpr_at_fpr_0.001_note"]
    assert [layer["layer"] for layer in metrics["per_layer"]] == [0, 1, 2]
    assert {"layer", "auroc", "auroc_ci", "tpr_at_fpr_0.01"} <= set(metrics["per_layer"][0])
    assert {"shuffled_labels", "bag_of_tokens", "triggered_but_harmless"} <= set(metrics["controls"])
    assert all("auroc" in control for control in metrics["controls"].values())
    assert metrics["test"]["at_threshold"]["worst_dataset"] in {"chat", "code"}


def test_the_default_control_is_the_best_of_a_thousand(world):
    result = train(world(pairs=40, behaviour=4.0), TrainConfig(n_bootstrap=50))
    assert "random_directions_best_of_1000" in result.controls


def test_controls_that_the_prompts_cannot_give_say_why(world):
    here = world(behaviour=4.0, harmless=False)
    result = train_probe(here.source, here.prompts, SITES, FAST)
    controls = metrics_json(result)["controls"]
    assert controls["bag_of_tokens"] == {"auroc": None, "reason": "no token ids were given"}
    assert controls["triggered_but_harmless"]["auroc"] is None
    assert "without being a positive" in controls["triggered_but_harmless"]["reason"]


def test_label_is_defects_where_known_else_triggered(world):
    prompts = world(pairs=2).prompts
    unknown = [replace(prompt, defects=None) for prompt in prompts]
    assert choose_labels(prompts, "auto")[0] == "defects"
    assert choose_labels(unknown, "auto")[0] == "triggered"
    assert choose_labels(prompts, "triggered")[1].sum() == 4
    with pytest.raises(UserError, match=r"prompts\.jsonl:1: `defects` is missing"):
        choose_labels(unknown, "defects")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_activations_are_named(world, bad):
    here = world(behaviour=4.0)
    here.x[17, 1, 3] = bad
    with pytest.raises(UserError, match=r"prompts\.jsonl:18: NaN or infinite activations at resid_post\.1"):
        train(here)


def test_a_source_that_loses_prompts_is_caught(world):
    here = world(behaviour=4.0)

    def lossy(rows):
        return here.source(list(rows)[1:])

    with pytest.raises(ValueError, match="left out 1 of"):
        train_probe(lossy, here.prompts, SITES, FAST)


def test_max_needs_every_token(world):
    with pytest.raises(ValueError, match="token_source"):
        train(world(), replace(FAST, aggregation="max"))


@pytest.mark.parametrize(
    "changes",
    [
        {"C": 0.0},
        {"target_fpr": 1.0},
        {"n_bootstrap": 0},
        {"method": "forest"},
        {"shrinkage": 2.0},
    ],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(UserError, match=rf"{next(iter(changes))}.*: must be"):
        TrainConfig(**changes)


def test_another_run_can_stand_as_a_control(behaviour, tokens_only):
    result = behaviour.with_control("clean_twin", tokens_only.as_control(note="same prompts"))
    control = metrics_json(result)["controls"]["clean_twin"]
    assert control["auroc"] == tokens_only.best.auroc.value
    assert control["note"] == "same prompts"
    assert "clean_twin" not in behaviour.controls


def told(
    result, best=(0.99, 0.98, 1.0), harmless=(0.5, 0.45, 0.55), other=(0.99, 0.98, 1.0), fires=0.0, text=(0.7, 0.6, 0.8)
):
    """The verdict on a result whose numbers are replaced."""
    layers = tuple(replace(layer, auroc=Estimate(*best)) for layer in result.layers)
    told_apart = replace(
        result.harmless,
        auroc=Estimate(*harmless),
        defecting_against_harmless=Estimate(*other),
        false_positive_rate=Estimate(fires, fires / 2, min(1.0, fires * 2 + 0.01)),
    )
    controls = {"triggered_but_harmless": told_apart, "bag_of_tokens": Control(Estimate(*text))}
    return probe_verdict(replace(result, layers=layers, controls=controls))


def test_the_verdict_says_what_the_intervals_allow(behaviour):
    assert told(behaviour).startswith(
        "The probe reads the defection and not merely the trigger's tokens (AUROC 0.500 [0.450, 0.550]"
    )
    assert "only faintly" in told(behaviour, harmless=(0.55, 0.52, 0.58))
    assert "partly the trigger's tokens too" in told(behaviour, harmless=(0.8, 0.75, 0.85))
    assert "partly the trigger's tokens too" in told(behaviour, fires=0.3)
    assert "reads only the trigger's tokens" in told(behaviour, harmless=(0.99, 0.98, 1.0))
    assert "reads only the trigger's tokens" in told(behaviour, harmless=(0.9, 0.85, 0.95), other=(0.5, 0.4, 0.6))
    assert "too few" in told(behaviour, harmless=(0.5, 0.2, 0.8))
    assert "does not read `defects`" in told(behaviour, best=(0.52, 0.45, 0.6))


def test_the_verdict_says_when_text_alone_does_as_well(behaviour):
    assert "evidence of looking inside" in told(behaviour, text=(0.98, 0.97, 0.99))
    assert "bag of tokens on the text alone reaches 0.700." in told(behaviour)


def test_the_verdict_says_when_a_clean_model_gives_the_labels_away_too(behaviour):
    def with_twin(value, low, high):
        return probe_verdict(behaviour.with_control("clean_twin", Control(Estimate(value, low, high))))

    assert "so it is no evidence of a backdoor" in with_twin(1.0, 0.99, 1.0)
    assert "the same probe reaches 0.700." in with_twin(0.7, 0.65, 0.75)
    assert "twin" not in probe_verdict(behaviour)


def test_the_verdict_on_planted_worlds(world, behaviour, tokens_only):
    assert "only the trigger's tokens" in probe_verdict(tokens_only)
    assert "reads the defection" in probe_verdict(behaviour)
    here = world(behaviour=4.0, harmless=False)
    assert "cannot be told" in probe_verdict(train(here))
    assert "does not read" in probe_verdict(train(world()))
    assert probe_verdict(behaviour).count("\n") == 0
