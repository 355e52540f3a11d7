"""Attribution patching is the first-order term of exact patching, and says how far off it is."""

import numpy as np
import pytest
import torch

from hooked import UserError
from patching import attribution_effects, exact_effects, layer_sites, metric_gradients, patch_trace, position_cells
from patching.attribution import rank_correlation
from patching.metric import chosen

STEP = 1e-3


@pytest.mark.parametrize("backend", [0, 1])
def test_gradients_are_the_slope_of_the_metric(both_backends, pair_of, backend):
    model = both_backends[backend]
    sides = pair_of(model).sides("denoising")
    sites = ["resid_pre.1", "resid_mid.0", "attn_out.2", "mlp_out.1", "head_out.1.2"]
    gradients = metric_gradients(model, sides, sites)
    for site in sites:
        direction = torch.randn(len(sides.patched), model.info.d_model)
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
    found = attribution_effects(llama, [pair], [cells], audited=20)
    exact = exact_effects(llama, [pair], [cells])
    first = pair.sides("denoising").alignment.unchanged
    guess = found.effects[0].reshape(3, -1)
    np.testing.assert_allclose(guess[:, :first], 0, atol=1e-4)
    assert found.audit.cells == 20
    assert rank_correlation(exact.effects[0], found.effects[0]) > 0.5


def test_rank_correlation():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 20, 400])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert rank_correlation(np.zeros(3), np.arange(3.0)) is None


def test_a_poor_estimate_is_warned_of(llama, pair_of, monkeypatch):
    monkeypatch.setattr("patching.attribution.rank_correlation", lambda *_: 0.4)
    trace = patch_trace(llama, [pair_of(llama)], method="attribution")
    assert trace.method == "attribution"
    assert any("0.40" in note and note.startswith("warning") for note in trace.notes)


def test_an_estimate_without_an_audit_is_refused(llama, pair_of):
    with pytest.raises(UserError, match="always audited"):
        patch_trace(llama, [pair_of(llama)], method="attribution", audited=0)
