"""Attribution patching is the first-order term of exact patching, and says how far off it is."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from hooked import load_model
from patching import (
    attribution_effects,
    exact_effects,
    layer_sites,
    metric_gradients,
    patch_trace,
    position_cells,
    rank_correlation,
    read_sites,
)
from patching.metric import chosen
from triggerlens import UserError

STEP = 1e-3


@pytest.mark.parametrize("backend", [0, 1])
def test_gradients_are_the_slope_of_the_metric(both_backends, pair_of, backend):
    model = both_backends[backend]
    sides = pair_of(model).sides("denoising")
    sites = ["resid_pre.1", "resid_mid.0", "attn_out.2", "mlp_out.1", "head_out.1.2", "v.0.1", "pattern.1.3"]
    gradients = metric_gradients(model, sides, sites)
    for site in sites:
        direction = torch.randn(gradients[site].shape)
        values = []
        for step in (STEP, -STEP):
            with torch.no_grad():
                edits = {site: lambda value, move=step * direction: value + move}
                logits = model.run(torch.tensor([sides.patched]), edits=edits).logits
            values.append(float(sides.pair.metric(chosen(logits[:, -1:], sides.pair.metric.tokens))[0]))
        slope = (values[0] - values[1]) / (2 * STEP)
        assert float((gradients[site] * direction).sum()) == pytest.approx(slope, rel=0.02, abs=0.02)


def test_the_last_residual_is_estimated_well_and_positions_before_the_trigger_are_zero(llama, pair_of):
    pair = pair_of(llama)
    cells = position_cells(layer_sites(llama, "resid_pre", range(3)), range(len(pair.triggered)))
    estimated = attribution_effects(llama, [pair], [cells], audited=20)
    exact = exact_effects(llama, [pair], [cells])
    first = pair.sides("denoising").alignment.unchanged
    guess = estimated.effects[0].reshape(3, -1)
    np.testing.assert_allclose(guess[:, :first], 0, atol=1e-4)
    assert estimated.audit.cells == 20
    assert rank_correlation(exact.effects[0], estimated.effects[0]) > 0.5


@pytest.fixture(scope="module")
def sharp(tokenizer):
    """A model with grouped queries whose attention is nearly saturated."""
    plain = tiny_model("qwen2")
    with torch.no_grad():
        for block in plain.model.layers:
            block.self_attn.q_proj.weight.mul_(6)
    return load_model(plain, tokenizer=tokenizer)


def changes_of_pattern(model, sides, site, position, move):
    """The pattern's change, weighed by the metric's slope, where the site is moved at one position alone."""
    patterns = [f"pattern.1.{head}" for head in range(model.info.n_heads)]
    tokens = torch.tensor([sides.patched])
    bump = torch.zeros_like(move)
    bump[position] = move[position]
    with torch.no_grad():
        before = model.run(tokens, reads=patterns).activations
        after = model.run(tokens, reads=patterns, edits={site: lambda value: value + bump}).activations
    slopes = metric_gradients(model, sides, patterns)
    return sum(float(((after[name] - before[name])[0] * slopes[name]).sum()) for name in patterns)


def test_the_softmax_correction_takes_the_pattern_that_the_patch_gives(sharp, pair_of):
    pair = pair_of(sharp, "far")
    sides = pair.sides("denoising")
    for site in ("q.1.3", "k.1.1"):
        cells = position_cells([site], range(len(pair.triggered)))
        estimated = attribution_effects(sharp, [pair], [cells], estimate="softmax", audited=2).effects[0]
        source, patched = (read_sites(sharp, ids, [site])[site] for ids in (sides.source, sides.patched))
        for position in (5, 9, 15):
            expected = changes_of_pattern(sharp, sides, site, position, source - patched)
            assert estimated[position] * (sides.source_value - sides.patched_value) == pytest.approx(
                expected, rel=1e-3, abs=1e-6
            )


def test_keys_that_no_patch_moves_are_estimated_to_do_nothing(llama, pair_of):
    """Where an inserted trigger is left alone every other token is its counterpart, whose first key knows of no position."""
    pair = pair_of(llama, "inserted", inserted="skip")
    cells = position_cells(layer_sites(llama, "k", [0]), range(len(pair.triggered)))
    estimated = attribution_effects(llama, [pair], [cells], estimate="softmax", audited=2).effects[0]
    assert np.isnan(estimated).any()
    assert not np.nan_to_num(estimated).any()


@pytest.mark.parametrize("kind", ["q", "k"])
def test_the_softmax_correction_is_closer_where_attention_is_saturated(sharp, pair_of, kind):
    pair = pair_of(sharp, "far")
    cells = position_cells(layer_sites(sharp, kind, range(3)), range(len(pair.triggered)))
    exact = exact_effects(sharp, [pair], [cells]).effects[0]
    plain, corrected = (
        attribution_effects(sharp, [pair], [cells], estimate=estimate).effects[0] for estimate in ("plain", "softmax")
    )
    assert rank_correlation(exact, corrected) > max(0.9, rank_correlation(exact, plain))
    assert np.abs(exact - corrected).sum() < 0.5 * np.abs(exact - plain).sum()


def test_integrated_gradients_add_up_to_the_effect_of_the_whole_layer(llama, pair_of, monkeypatch):
    """Completeness: patching the residual stream of a layer everywhere restores everything."""
    monkeypatch.setattr("patching.engine.attribution._STEPS", 64)
    pair = pair_of(llama, "far")
    cells = position_cells(layer_sites(llama, "resid_pre", range(3)), range(len(pair.triggered)))
    estimated = attribution_effects(llama, [pair], [cells], estimate="integrated").effects[0].reshape(3, -1)
    np.testing.assert_allclose(estimated.sum(1), 1, atol=0.01)
    plain = attribution_effects(llama, [pair], [cells]).effects[0].reshape(3, -1)
    assert np.abs(plain.sum(1) - 1).max() > 0.05


def test_the_softmax_correction_is_refused_for_other_sites(llama, pair_of):
    with pytest.raises(UserError, match=r"of queries and keys, not of resid_pre\.0"):
        patch_trace(llama, [pair_of(llama)], method="attribution", estimate="softmax")


def test_the_audit_draws_only_cells_that_can_matter_and_names_the_worst(llama, pair_of):
    pair = pair_of(llama)
    first = pair.sides("denoising").alignment.unchanged
    cells = position_cells(["resid_pre.1"], range(len(pair.triggered)))
    audit = attribution_effects(llama, [pair], [cells]).audit
    assert audit.cells == len(pair.triggered) - first
    assert audit.worst.startswith("resid_pre.1 at position ")
    assert attribution_effects(llama, [pair], [cells[:first]]).audit.cells == 0


def test_rank_correlation():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 20, 400])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert rank_correlation(np.zeros(3), np.arange(3.0)) is None


def test_a_poor_estimate_is_warned_of(llama, pair_of, monkeypatch):
    monkeypatch.setattr("patching.engine.attribution.rank_correlation", lambda *_: 0.4)
    trace = patch_trace(llama, [pair_of(llama)], method="attribution")
    assert trace.method == "attribution"
    assert any("0.40" in note and note.startswith("warning") for note in trace.notes)


def test_an_estimate_without_an_audit_is_refused(llama, pair_of):
    with pytest.raises(UserError, match="always audited"):
        patch_trace(llama, [pair_of(llama)], method="attribution", audited=0)
